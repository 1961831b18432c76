#!/usr/bin/env bash
# Measures with `telemetra bench` and puts together what it said in deploy/BENCH.md: all benches, or those that
# are named. What a bench says is kept in bin/bench until it is measured again, so that one of them can be
# repeated alone.
#
#   bench-report.sh [NAME…]
#
#   ARGS  more flags of the benches that are measured
#
# It needs bin/telemetra and, for the bench peer, bin/centrifugo (`make bench-report` builds both).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kept=bin/bench
# As its help lists them.
# shellcheck disable=SC2207 # names are words
all=($(bin/telemetra bench --help | sed -n 's/^  bench \([a-z-]*\) .*/\1/p' | grep -vx all))
mkdir -p "$kept"

measure() {
  local args=(bench "$1")
  case "$1" in
    growth) args+=(--charts "$kept") ;;
    peer) args+=(--centrifugo bin/centrifugo) ;;
  esac
  # shellcheck disable=SC2206 # flags are words
  args+=(${ARGS:-})
  echo "\$ telemetra ${args[*]}" >"$kept/$1.new"
  bin/telemetra "${args[@]}" >>"$kept/$1.new" && mv "$kept/$1.new" "$kept/$1.out"
}

# Of the Postgres that the benches take, as deploy/local finds it: in PATH, else where pg_config or distributions
# have it, the newest first.
postgres_version() {
  local dir
  { dirname "$(realpath "$(command -v initdb)")" || true
    pg_config --bindir || true
    printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin /opt/homebrew/opt/postgresql*/bin \
      /usr/local/opt/postgresql*/bin /Library/PostgreSQL/*/bin | sort -rV; } 2>/dev/null |
    while read -r dir; do
      if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
        "$dir/postgres" --version | grep -oE '[0-9]+(\.[0-9]+)?' | head -1
        break
      fi
    done
}

redis_version() { redis-server --version | sed -n 's/.* v=\([0-9.]*\).*/\1/p'; }

processor() {
  local name
  name=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -1)
  echo "$(getconf _NPROCESSORS_ONLN) cores${name:+ of $name}"
}

# The paragraph below a bench's usage says what it measures.
about() { bin/telemetra bench "$1" --help | sed -n '3,/^$/p' | sed '$d'; }

report() {
  local name
  cat <<END
# What the benches say

Made by \`make bench-report\` at $(bin/telemetra version | awk '{ print $NF }'). Everything ran on one machine: $(processor),
Postgres $(postgres_version), Redis $(redis_version). The servers, what is measured and what measures it share the cores,
so look at the ratios first: their sides were measured in turns. \`make bench-report BENCHES='fanout writers'\` measures
some again, so each block says at which commit it was measured.
END
  for name in "${all[@]}"; do
    if [ ! -f "$kept/$name.out" ]; then
      echo "bench-report: $name was never measured" >&2
      continue
    fi
    printf '\n## %s\n\n%s\n\n```\n' "$name" "$(about "$name")"
    cat "$kept/$name.out"
    echo '```'
    if [ "$name" = growth ]; then
      printf '\n![Latency, CPU time and memory against streams, clients and rows](growth.svg)\n'
    fi
  done
}

failed=()
for name in "${@:-${all[@]}}"; do
  measure "$name" || failed+=("$name")
done
report >"$kept/BENCH.md"
mv "$kept/BENCH.md" deploy/BENCH.md
if [ -f "$kept/growth.svg" ]; then cp "$kept/growth.svg" deploy/growth.svg; fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "bench-report: failed: ${failed[*]}" >&2
  exit 1
fi
