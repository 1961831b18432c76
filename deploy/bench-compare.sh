#!/usr/bin/env bash
# Compares the Go benchmarks of two revisions. Machines drift, so the test binaries are built once and take
# turns: base, head, base, head … What benchstat makes of the results is printed, and the results are left
# in bin/bench-compare.
#
#   BASE       a revision (HEAD~1)
#   HEAD       a revision (the working tree, as it is)
#   BENCH      which benchmarks, as for go test -bench (.)
#   COUNT      turns of each side, 1 to 100 (10); benchstat trusts no difference of fewer than 4
#   BENCHTIME  of each benchmark in a turn, as for go test -benchtime (300ms)
#   MINUTES    when to stop whatever is left, and compare what there is, 1 to 600 (45)
#
# A benchmark that one side does not have is told of the other alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

base=${BASE:-HEAD~1} head=${HEAD:-} bench=${BENCH:-.} count=${COUNT:-10} benchtime=${BENCHTIME:-300ms} minutes=${MINUTES:-45}
benchstat=golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
results=$PWD/bin/bench-compare

fail() {
  echo "bench-compare: $*" >&2
  exit 1
}

within() { # NAME VALUE MOST
  [[ $2 =~ ^[1-9][0-9]{0,3}$ && $2 -le $3 ]] || fail "$1 is \"$2\"; allowed are 1 to $3"
}

commit() { # NAME REVISION
  git rev-parse --verify --quiet "$2^{commit}" || fail "$1 is \"$2\"; allowed is a commit of this repository, such as HEAD~1, a branch or a tag"
}

within COUNT "$count" 100
within MINUTES "$minutes" 600
[[ $benchtime =~ ^[1-9][0-9]*(x|ms|s|m)$ ]] || fail "BENCHTIME is \"$benchtime\"; allowed are a time such as 300ms, and a number of iterations such as 100x"
base_commit=$(commit BASE "$base")
head_commit=${head:+$(commit HEAD "$head")}

dir=$(mktemp -d)
running=''
clean_up() {
  local status=$? tree
  if [ -n "$running" ]; then kill "$running" && wait "$running"; fi 2>/dev/null || true
  for tree in "$dir"/*/tree; do
    if [ -e "$tree/.git" ]; then git worktree remove --force "$tree" || true; fi
  done
  rm -rf "$dir"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

tree_of() { if [ "$1" = head ] && [ -z "$head" ]; then pwd; else echo "$dir/$1/tree"; fi; }

# build SIDE: a test binary for each package that has such a benchmark, named after the package.
build() {
  local tree package binary
  tree=$(tree_of "$1")
  mkdir -p "$dir/$1/bin"
  (cd "$tree" && grep -rl --include='*_test.go' '^func Benchmark' .) | xargs -r dirname | sort -u >"$dir/$1/packages"
  while read -r package; do
    binary=$dir/$1/bin/${package//\//,}
    (cd "$tree" && go test -c -o "$binary" "$package") || fail "the tests of $package do not build at $1"
    # The names before the first slash choose among functions. -test.list names tests, too.
    if ! (cd "$tree/$package" && "$binary" -test.list "${bench%%/*}") | grep -q '^Benchmark'; then rm "$binary"; fi
  done <"$dir/$1/packages"
}

# turn SIDE BINARY: one run of a package's benchmarks. It is waited for in a way that a signal ends.
turn() {
  local package=${2//,/\/}
  [ -e "$dir/$1/bin/$2" ] || return 0
  (cd "$(tree_of "$1")/$package" && exec "$dir/$1/bin/$2" -test.run '^$' -test.bench "$bench" -test.benchmem \
    -test.benchtime "$benchtime" -test.timeout 10m) >"$dir/turn" 2>&1 &
  running=$!
  if ! wait "$running"; then
    cat "$dir/turn" >&2
    fail "a benchmark of $package has failed at $1"
  fi
  running=''
  cat "$dir/turn" >>"$results/$1.txt"
}

mkdir -p "$results" "$dir/base" "$dir/head"
rm -f "$results"/*.txt
git worktree add --quiet --detach "$(tree_of base)" "$base_commit"
if [ -n "$head" ]; then git worktree add --quiet --detach "$(tree_of head)" "$head_commit"; fi
build base
build head
packages=$(cd "$dir" && find base/bin head/bin -type f -printf '%f\n' | sort -u)
[ -n "$packages" ] || fail "BENCH is \"$bench\", which no benchmark of either revision matches; allowed is a regular expression such as Fanout, or . for all"

echo "base: $(git log -1 --format='%h %s' "$base_commit")" >&2
echo "head: $(if [ -n "$head" ]; then git log -1 --format='%h %s' "$head_commit"; else echo 'the working tree'; fi)" >&2
for ((n = 1; n <= count; n++)); do
  if [ "$SECONDS" -ge $((60 * minutes)) ]; then
    echo "bench-compare: stopped after $((n - 1)) of $count turns, for MINUTES is $minutes" >&2
    break
  fi
  echo "turn $n of $count, after $SECONDS s" >&2
  for package in $packages; do
    turn base "$package"
    turn head "$package"
  done
done
touch "$results/base.txt" "$results/head.txt"
go run "$benchstat" "base=$results/base.txt" "head=$results/head.txt"
