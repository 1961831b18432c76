#!/usr/bin/env bash
# Installs what the demo and the tests need beside Go: the server programs of
# Postgres and of Redis, with the argument `tests` promtool, which checks the alerts,
# HAProxy, which is the balancer, and Chromium, which opens the console, and with `front`
# node, npm, Caddy and nginx, too, for clients and proxies of other makers. Does nothing when they are there, is
# safe to run again, and says what to do where it cannot install.
set -euo pipefail

case "${*:-demo}" in
  demo) for_tests=false for_front=false ;;
  tests) for_tests=true for_front=false ;;
  front) for_tests=true for_front=true ;;
  *)
    echo "usage: bootstrap.sh [tests|front]" >&2
    exit 2
    ;;
esac

have_postgres() {
  local dir
  for dir in "$(dirname "$(command -v initdb || true)")" "$(pg_config --bindir 2>/dev/null || true)" \
    /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin \
    /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin /Library/PostgreSQL/*/bin; do
    [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && return 0
  done
  return 1
}

have_redis() { command -v redis-server >/dev/null 2>&1; }

have_promtool() { ! "$for_tests" || command -v promtool >/dev/null 2>&1; }

# Their packages put these where only root looks.
have_haproxy() { ! "$for_tests" || command -v haproxy >/dev/null 2>&1 || [ -x /usr/sbin/haproxy ]; }

have_nginx() { ! "$for_front" || command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ]; }

have_caddy() { ! "$for_front" || command -v caddy >/dev/null 2>&1; }

# The names and places that the tests look at: browserNames in cmd/telemetra.
have_chromium() {
  "$for_tests" || return 0
  local name
  for name in chromium chromium-browser google-chrome google-chrome-stable \
    "/Applications/Chromium.app/Contents/MacOS/Chromium" "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
    command -v "$name" >/dev/null 2>&1 && return 0
  done
  return 1
}

have_node() { ! "$for_front" || { command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1; }; }

missing() {
  have_postgres || echo "PostgreSQL 13 or newer, with initdb"
  have_redis || echo "redis-server"
  have_promtool || echo "promtool, which comes with Prometheus"
  have_haproxy || echo "HAProxy 2.6 or newer"
  have_chromium || echo "Chromium or Chrome"
  have_node || echo "node and npm"
  have_caddy || echo "Caddy"
  have_nginx || echo "nginx"
}

give_up() {
  local list
  list=$(missing)
  echo "bootstrap: $1" >&2
  [ -z "$list" ] || echo "bootstrap: install ${list//$'\n'/; }. Then run this again." >&2
  exit 1
}

check_go() {
  command -v go >/dev/null 2>&1 || give_up "Go is missing; install Go 1.26 or newer."
  local version
  version=$(go env GOVERSION) # go1.26.8
  case "$version" in
    go1.[0-9] | go1.[0-9].* | go1.1[0-9]* | go1.2[0-5]*)
      give_up "Go 1.26 or newer is needed, this is $version."
      ;;
  esac
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo "$@"
  else
    give_up "no right to install packages: neither root nor sudo."
  fi
}

# The packages would start servers and make a cluster of their own; nothing here
# needs those, so the services are kept from starting while they are installed.
# The trap takes the policy away after an interruption, too.
prepare_apt() {
  local policy=/usr/sbin/policy-rc.d
  as_root true
  if [ ! -e "$policy" ]; then
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
  fi
  as_root apt-get update -q || give_up "apt-get could not update its lists."
}

install_apt() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" ||
    give_up "apt-get could not install: $*"
}

check_go
packages=()
if command -v apt-get >/dev/null 2>&1; then
  have_postgres || packages+=(postgresql)
  have_redis || packages+=(redis-server)
  have_promtool || packages+=(prometheus)
  have_haproxy || packages+=(haproxy)
  have_caddy || packages+=(caddy)
  have_nginx || packages+=(nginx-light)
  [ -z "$(missing)" ] || prepare_apt
  [ "${#packages[@]}" -eq 0 ] || install_apt "${packages[@]}"
  # By itself, after the servers: not every system has a package of it. A font, or pages have no text.
  have_chromium || install_apt chromium fonts-dejavu-core
  have_node || install_apt nodejs npm # large, and the front suite alone needs them
elif command -v brew >/dev/null 2>&1; then
  have_postgres || packages+=(postgresql@16)
  have_redis || packages+=(redis)
  have_promtool || packages+=(prometheus)
  have_node || packages+=(node)
  have_haproxy || packages+=(haproxy)
  have_caddy || packages+=(caddy)
  have_nginx || packages+=(nginx)
  [ "${#packages[@]}" -eq 0 ] || brew install "${packages[@]}" || give_up "brew could not install: ${packages[*]}"
fi
[ -z "$(missing)" ] || give_up "not all that is needed is here."
