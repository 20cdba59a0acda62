#!/bin/sh
# What it costs to ask a large campaign one question, and to make its page.
#
#   benches/report.sh [ITERATIONS [METRICS [GROUPS [DIRECTORY]]]]      default: 10000 300 50 /dev/shm
#
# Prints for each command wall time, CPU time and peak memory, best of three by CPU time. Needs GNU time.
set -eu
cd "$(dirname "$0")/.."
count=${1:-10000} metrics=${2:-300} groups=${3:-50}
work=$(mktemp -d "${4:-/dev/shm}/vptest-report.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

bench=$(cargo build --quiet --release --bench store --message-format=json |
    sed -n '/"name":"store"/s/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
cargo build --quiet --release --bin vptest
mkdir "$work/out"
"$bench" campaign "$work/out" "$count" "$metrics" "$groups"
"$bench" merge "$work/merged.db" "$work/out"
rm -rf "$work/out"
echo "$count iterations × $metrics metrics in $groups groups: $(stat -c %s "$work/merged.db") bytes; $(nproc) CPUs"

measure() {
    for _ in 1 2 3; do
        /usr/bin/time -f '%U %S %e %M' -o "$work/time" "$@" >/dev/null 2>&1
        tail -n 1 "$work/time"
    done | awk '{ cpu = $1 + $2; if (NR == 1 || cpu < best) { best = cpu; line = $3 " s, " cpu " s of CPU, " int($4 / 1024) " MiB" } } END { print line }'
}
echo "analyze --metric rps: $(measure target/release/vptest analyze --metric rps --db "$work/merged.db")"
echo "analyze (list):       $(measure target/release/vptest analyze --db "$work/merged.db")"
echo "export:               $(measure target/release/vptest export --db "$work/merged.db" -o "$work/values.csv")"
echo "report:               $(measure target/release/vptest report --db "$work/merged.db" -o "$work/report.html")"
echo "report.html:          $(stat -c %s "$work/report.html") bytes"
