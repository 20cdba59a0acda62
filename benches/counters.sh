#!/bin/bash
# What reading counters costs: CPU time of ab and nginx for each request, with counters at several intervals and without, in
# turn; and the CPU time of the thread that reads. Needs root, ab, nginx, python3.
#
#   benches/counters.sh [ROUNDS] [REQUESTS]
set -euo pipefail
rounds=${1:-5} requests=${2:-20000}
vptest=$(realpath "${VPTEST:-target/release/vptest}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
variants=(off ends 1s 100ms 10ms)
declare -A counters=([off]=false [ends]='{ interval = "off" }' [1s]='{ interval = "1 s" }'
                     [100ms]='{ interval = "100 ms" }' [10ms]='{ interval = "10 ms" }')
for variant in "${variants[@]}"; do
    mkdir "$work/$variant"
    cat >"$work/$variant/params.toml" <<SPEC
name        = "cost"
repetitions = $rounds
order       = "sequential"
[factors]
testbed = "netns"
workers = 10
request = { url = "/", count = $requests }
[workload]
preset = "ab"
server = "nginx"
[capture]
vantage = []
[instrument]
counters = ${counters[$variant]}
[verify]
foreign_cpu = "off"
steal       = "off"
client_cpu  = "off"
SPEC
    (cd "$work/$variant" && "$vptest" sweep params.toml >/dev/null)
done
for round in $(seq "$rounds"); do
    for variant in "${variants[@]}"; do
        (cd "$work/$variant" && "$vptest" -q run --iter "$round") || true
    done
done
python3 - "$work" "$requests" "${variants[@]}" <<'TABLE'
import glob, json, os, sqlite3, statistics, sys
work, requests, *variants = sys.argv[1:]
base = None
print("variant  us/request  / off  readings  us of CPU/reading  file bytes")
for variant in variants:
    cost, reading, readings, sizes = [], [], [], []
    for name in glob.glob(f"{work}/{variant}/out/*.db"):
        db = sqlite3.connect(name)
        one = lambda sql: (db.execute(sql).fetchone() or [None])[0]
        client = one("SELECT value FROM metric WHERE name='client_cpu'")
        taken = one("SELECT value FROM metric WHERE name='time_taken'")
        server = one("SELECT value FROM metric WHERE name='server_cpu_time'")
        if None in (client, taken, server):
            continue
        cost.append((client * taken + server) / int(requests) * 1e6)
        sizes.append(os.path.getsize(name))
        place = db.execute("SELECT cpu_ns, times_us FROM counter_place LIMIT 1").fetchone()
        if place:
            n = len(json.loads(place[1]))
            readings.append(n)
            reading.append(place[0] / n / 1e3)
    middle = statistics.median
    base = base or middle(cost)
    more = f"{middle(readings):9.0f} {middle(reading):17.0f}" if reading else " " * 27
    print(f"{variant:8} {middle(cost):10.2f} {middle(cost) / base:6.3f} {more} {middle(sizes):11.0f}   n={len(cost)}")
TABLE
