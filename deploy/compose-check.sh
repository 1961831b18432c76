#!/usr/bin/env bash
# Starts docker-compose.yml from nothing, and scales, restarts and kills what is in it while `telemetra
# soak` writes rows and follows them through the balancer: nothing may be lost, come twice or out of order.
# Each step is printed with what came of it; the first that fails ends the check. Everything of it is
# removed at the end.
#
#   KEEP=1             leave it running
#   CHECK_PORT         port of the balancer on 127.0.0.1; Postgres and Prometheus take the next two (18080)
#   CHECK_SUBNET       of its network (172.30.84.0/24)
#   DOCKER_BUILDKIT=1  build with BuildKit
#
# It needs docker compose, curl and bin/telemetra (`make compose-check` builds it).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

port=${CHECK_PORT:-18080}
base=http://127.0.0.1:$port
dir=$(mktemp -d)
soak=''
reads=''

export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0}
export TELEMETRA_IMAGE=telemetra:check TELEMETRA_VERSION=${VERSION:-check}
export HTTP_PORT=$port PROMETHEUS_PORT=$((port + 2)) BIND_ADDRESS=127.0.0.1 NETWORK_SUBNET=${CHECK_SUBNET:-172.30.84.0/24}
POSTGRES_PASSWORD=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
POSTGRES_READER_PASSWORD=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
export POSTGRES_PASSWORD POSTGRES_READER_PASSWORD POSTGRES_USER=telemetra POSTGRES_READER_USER=telemetra_reader POSTGRES_DB=telemetra

# The soak writes from outside.
cat >"$dir/override.yml" <<EOF
services:
  postgres:
    ports: ["127.0.0.1:$((port + 1)):5432"]
EOF

compose() {
  docker compose --project-name telemetra-check --env-file /dev/null -f docker-compose.yml -f "$dir/override.yml" "$@" 2>>"$dir/compose.log"
}

started=$(date +%s%N)
now() { echo $(($(date +%s%N) - started)); }
seconds() { printf '%d.%d s' $(($1 / 1000000000)) $(($1 / 100000000 % 10)); }
said() { printf '%9s  %-42s %s\n' "$(seconds "$(now)")" "$1" "${2:-ok}"; }

fail() {
  said "FAILED" "$*"
  tail -20 "$dir/compose.log" >&2
  compose ps -a >&2 || true
  compose logs --no-color --tail 30 listener gateway api balancer >&2 || true
  if [ -s "$dir/soak.out" ]; then cat "$dir/soak.out" "$dir/soak.err" >&2; fi
  exit 1
}

clean_up() {
  local status=$?
  rm -f "$dir/reading"
  if [ -n "$soak" ]; then kill "$soak" && wait "$soak"; fi 2>/dev/null || true
  if [ -n "$reads" ]; then wait "$reads" || true; fi
  if [ "${KEEP:-}" = 1 ]; then
    echo "left running: docker compose --project-name telemetra-check ps; files are in $dir"
  else
    compose --profile '*' down --volumes --remove-orphans >/dev/null || true
    rm -rf "$dir"
  fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

# eventually SECONDS WHAT COMMAND…: waits until the command succeeds.
eventually() {
  local deadline=$(($(date +%s) + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$deadline" ] || fail "$what"
    sleep 0.2
  done
}

health() { docker inspect -f '{{.State.Health.Status}}' "$1"; }
is_healthy() { [ "$(health "$1")" = healthy ]; }
name_of() { docker inspect -f '{{slice .Name 1}}' "$1" | sed 's/^telemetra-check-//'; }

# figures NAME: a metric of the balancer, a line for each of its series.
figures() { compose exec -T balancer wget -q -O - http://127.0.0.1:8404/metrics | grep "^$1{"; }
has_servers() { [ "$(figures haproxy_backend_active_servers | sed -n "s/.*proxy=\"$1\"} //p")" = "$2" ]; }
sessions() { # of each gateway that has some, the most first
  figures haproxy_server_current_sessions | awk '/proxy="gateways"/ && $2 > 0 {print $2}' | sort -rn | paste -sd' ' -
}

answers() { # PATH STATUS TEXT [CURL ARGUMENT…]
  local status
  status=$(curl -s -m 5 -o "$dir/answer" -w '%{http_code}' "${@:4}" "$base$1") || true
  if [ "$status" != "$2" ] || ! grep -qF -- "$3" "$dir/answer"; then
    fail "$1: $status $(head -c 300 "$dir/answer"), want $2 with $3"
  fi
}

# frames COMMAND…: how many live metrics frames come within four seconds.
frames() { timeout 4 "$@" 2>/dev/null | grep -ao '"type":"metrics",[^{]*"data"' | grep -vc '"state":true' || true; }

# stop CONTAINER: as compose does; it has to end by itself within its grace period.
stop() {
  docker stop "$1" >/dev/null
  local code
  code=$(docker inspect -f '{{.State.ExitCode}}' "$1")
  [ "$code" = 0 ] || fail "$(name_of "$1") ended with $code"
}

start() {
  docker start "$1" >/dev/null
  eventually 60 "$(name_of "$1") does not become healthy again" is_healthy "$1"
}

# roll SERVICE: restarts its containers one after the other.
roll() {
  local id from
  for id in $(compose ps -q "$1"); do
    from=$(now)
    stop "$id"
    start "$id"
    said "restart $(name_of "$id")" "ended by itself, healthy again after $(seconds $(($(now) - from)))"
  done
}

# crash CONTAINER: docker kill; the restart policy is not for what an operator kills.
crash() {
  docker kill "$1" >/dev/null
  sleep 5
  start "$1"
  said "kill $(name_of "$1"), start it after 5 s" "healthy again"
}

scale() { # GATEWAYS
  local from
  from=$(now)
  compose up -d --no-deps --no-recreate --wait --scale "gateway=$1" gateway || fail "scale gateway=$1"
  eventually 30 "the balancer does not see $1 gateways" has_servers gateways "$1"
  said "scale gateway=$1" "after $(seconds $(($(now) - from))); sockets of each gateway: $(sessions)"
}

# renew: gives the gateways another setting without a pause. New ones come first, then those go that are out
# of date.
renew() {
  local from id
  from=$(now)
  export WS_HEARTBEAT_INTERVAL=29
  compose up -d --no-deps --no-recreate --wait --scale gateway=4 gateway || fail "four gateways, two of them new"
  eventually 30 "the balancer does not see 4 gateways" has_servers gateways 4
  compose up -d --no-deps --wait gateway || fail "two gateways, as GATEWAYS says, both new"
  for id in $(compose ps -q gateway); do
    docker inspect -f '{{.Config.Env}}' "$id" | grep -q WS_HEARTBEAT_INTERVAL=29 || fail "$(name_of "$id") is an old one"
  done
  eventually 30 "the balancer does not see 2 gateways" has_servers gateways 2
  said "replace both gateways by new ones" "after $(seconds $(($(now) - from))); sockets of each gateway: $(sessions)"
}

[ -x bin/telemetra ] || fail "bin/telemetra is missing: make build"
compose --profile '*' down --volumes --remove-orphans >/dev/null || true

# 1. Build, and start from nothing.
from=$(now)
compose build >"$dir/build.log" 2>&1 || { tail -30 "$dir/build.log" >&2; fail "build"; }
said "build" "$(seconds $(($(now) - from)))"
size=$(docker image inspect -f '{{.Size}}' "$TELEMETRA_IMAGE")
packed=$(docker save "$TELEMETRA_IMAGE" | gzip | wc -c)
said "image" "$((size / 1000000)) MB, $((packed / 1000000)) MB packed, user $(docker image inspect -f '{{.Config.User}}' "$TELEMETRA_IMAGE")"

from=$(now)
compose up -d --wait --wait-timeout 180 --scale gateway=3 || fail "up"
said "up --wait --scale gateway=3" "all healthy after $(seconds $(($(now) - from)))"
eventually 20 "the balancer does not see 3 gateways" has_servers gateways 3
eventually 20 "the balancer does not see 2 apis" has_servers apis 2
said "servers" "$(compose exec -T postgres postgres --version | sed 's/ (Debian.*//; s/postgres (PostgreSQL)/Postgres/'), \
$(compose exec -T redis redis-server --version | sed 's/Redis server v=\([^ ]*\).*/Redis \1/'), \
$(compose exec -T balancer haproxy -v | sed -n '1s/HAProxy version \([0-9.]*\).*/HAProxy \1/p')"

# 2. What the balancer answers.
answers /api/v1/health 200 '"database":"ok","redis":"ok"'
answers /api/v1/streams 200 '[]'
answers / 200 '"docs":"/docs"'
answers / 200 '<title>Telemetra</title>' -H 'Accept: text/html'
answers /console/telemetra.js 200 'export const connect'
answers /docs 200 swagger-ui
answers /asyncapi.yaml 200 asyncapi
answers /ws/live/health 200 '"total_connections"'
answers /ws/live/demo_stream 426 WebSocket
answers /metrics 404 'not found'
answers /debug/pprof/ 404 'not found'
said "answers through the balancer"
compose exec -T gateway /telemetra healthcheck >/dev/null || fail "telemetra healthcheck"
compose run --rm --no-deps -T listener doctor >"$dir/doctor" 2>&1 || { cat "$dir/doctor" >&2; fail "telemetra doctor"; }
said "telemetra doctor, inside" "$(tail -1 "$dir/doctor")"

# Whom strangers reach may read and nothing else.
as_reader() { # prints what came of a statement, errors included: compose's own stderr is a log
  compose exec -T -e PGPASSWORD="$POSTGRES_READER_PASSWORD" -e STATEMENT="$1" postgres \
    sh -c 'psql -h 127.0.0.1 -U telemetra_reader -d telemetra -Atqc "$STATEMENT" 2>&1' || true
}
roles=$(compose exec -T -e PGPASSWORD="$POSTGRES_PASSWORD" postgres psql -h 127.0.0.1 -U telemetra -d telemetra -Atqc \
  "SELECT string_agg(DISTINCT usename, ' ' ORDER BY usename) FROM pg_stat_activity WHERE application_name = 'telemetra'") || fail "roles"
[ "$roles" = "telemetra telemetra_reader" ] || fail "the processes connect as $roles"
[ "$(as_reader 'SELECT count(*) FROM streams')" = 0 ] || fail "the reader cannot read: $(as_reader 'SELECT count(*) FROM streams')"
as_reader "INSERT INTO streams (stream_id) VALUES ('x')" | grep -q 'permission denied' || fail "the reader can write"
said "roles of the processes" "$roles"

compose --profile demo up -d --no-deps simulate || fail "simulate"
eventually 30 "simulate has written nothing" curl -sf "$base/api/v1/streams/demo_stream/metrics"
upgrade=(-H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==')
events=$(frames curl -sN "$base/sse/live/demo_stream")
sockets=$(frames curl -sN --http1.1 "${upgrade[@]}" "$base/ws/live/demo_stream")
if [ "$events" -eq 0 ] || [ "$sockets" -eq 0 ]; then fail "rows of simulate in 4 s: $events as events, $sockets over a WebSocket"; fi
said "rows of simulate, in 4 s" "$events as Server-Sent Events, $sockets over a WebSocket"

if [ -e deploy/prometheus.yml ]; then
  compose --profile observability up -d --no-deps --wait prometheus || fail "prometheus"
  scraped() { [ "$(curl -sf "http://127.0.0.1:$((port + 2))/api/v1/query?query=up" | grep -o '"value":\[[0-9.]*,"1"\]' | wc -l)" -ge 7 ]; }
  eventually 60 "prometheus does not reach 2 listeners, 3 gateways and 2 apis" scraped
  said "prometheus" "reaches 2 listeners, 3 gateways and 2 apis"
fi

# 3. While rows are written and followed, and reads go on.
SOAK_DATABASE_URL="postgres://telemetra:$POSTGRES_PASSWORD@127.0.0.1:$((port + 1))/telemetra?sslmode=disable" \
  bin/telemetra soak --gateway-url "ws://127.0.0.1:$port" --rate 50 --clients 60 --streams 30 --faults none --duration 30m \
  >"$dir/soak.out" 2>"$dir/soak.err" &
soak=$!
touch "$dir/reading"
while [ -e "$dir/reading" ]; do
  curl -s -m 5 -o /dev/null -w '%{http_code}\n' "$base/api/v1/streams/demo_stream/metrics?limit=60" || true
  sleep 0.1
done >"$dir/reads" &
reads=$!
connected() { [ "$(sessions | awk '{for (i = 1; i <= NF; i++) n += $i} END {print n + 0}')" -ge 60 ]; }
eventually 60 "the soak does not connect 60 clients" connected
said "telemetra soak" "50 rows a second, 60 clients; sockets of each gateway: $(sessions)"
sleep 5

scale 5
sleep 5
compose run --rm --no-deps -T listener status --once >"$dir/status" 2>&1 || { cat "$dir/status" >&2; fail "telemetra status"; }
said "telemetra status, inside" "exit code 0, see below"
scale 2
sleep 5
renew
sleep 5
roll gateway
roll listener
roll api
crash "$(compose ps -q gateway | head -1)"
sleep 3
for id in $(compose ps -q listener); do # whichever of them publishes
  crash "$id"
  sleep 3
done

rm "$dir/reading"
wait "$reads"
reads=''
bad=$(grep -vc '^200$' "$dir/reads" || true)
[ "$bad" = 0 ] || fail "of $(wc -l <"$dir/reads") reads these were not 200: $(grep -v '^200$' "$dir/reads" | sort | uniq -c | paste -sd, -)"
said "reads meanwhile" "$(wc -l <"$dir/reads") of $(wc -l <"$dir/reads") were 200"

from=$(now)
export LOG_LEVEL=WARN
compose up -d --no-deps --wait listener gateway api || fail "up with another setting"
said "replace all processes at the same time" "all healthy after $(seconds $(($(now) - from)))"
eventually 30 "the balancer does not see 2 gateways" has_servers gateways 2
sleep 3

kill "$soak" || fail "the soak has ended by itself"
status=0
wait "$soak" || status=$?
soak=''
[ "$status" = 0 ] || fail "telemetra soak: exit code $status"
said "telemetra soak" "exit code 0"

restarts=$(compose ps -qa | xargs docker inspect -f '{{.RestartCount}} {{.State.OOMKilled}} {{.Name}}' | grep -v '^0 false' || true)
[ -z "$restarts" ] || fail "restarted by themselves, or out of memory: $restarts"
compose run --rm --no-deps -T listener doctor >"$dir/doctor" 2>&1 || { cat "$dir/doctor" >&2; fail "telemetra doctor"; }
said "telemetra doctor, inside" "$(tail -1 "$dir/doctor")"
echo
cat "$dir/status"
echo
cat "$dir/soak.out"
