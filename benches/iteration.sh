#!/usr/bin/env bash
# The whole fixed cost of an iteration beside ab itself: vptest, the script people write by hand (peers/iteration.sh), and
# what GNU parallel adds for each job. Interleaved, so that the machine's moods hit all alike. Needs root.
# iteration.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-20}
vptest=$PWD/target/release/vptest
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
spec() { # name, vantage
    cat >"$dir/$1.toml" <<TOML
name = "$1"
repetitions = $rounds
[factors]
testbed = "netns"
offload = "off"
rate    = "100 Mbit/s"
request = { url = "/", count = 100 }
[workload]
preset = "ab"
[capture]
vantage = [$2]
TOML
    "$vptest" sweep "$dir/$1.toml" -o "$dir/$1" >/dev/null
}
spec plain ''
spec captured '"guest"'
now() { date +%s%N; }
for i in $(seq "$rounds"); do
    for name in plain captured; do
        begun=$(now)
        "$vptest" -q run --iter "$i" -o "$dir/$name" || true
        ended=$(now)
        ab=$(sqlite3 "$dir/$name"/$(printf %06d "$i")-*.db "SELECT value FROM metric WHERE name='time_taken'")
        echo "vptest_$name $begun $ended $ab"
    done
    begun=$(now)
    ab=$(benches/peers/iteration.sh "$vptest" 100 /)
    ended=$(now)
    echo "script $begun $ended $ab"
done >"$dir/times"
begun=$(now)
"$vptest" -q run -o "$dir/plain" --iter "1-$rounds" --again || true
ended=$(now)
ab=$(sqlite3 :memory: "SELECT 0"; for f in "$dir"/plain/*02.db; do sqlite3 "$f" "SELECT value FROM metric WHERE name='time_taken'"; done)
echo "one_process $begun $ended $(echo "$ab" | paste -sd+ | bc) $rounds" >>"$dir/times"
begun=$(now)
seq 200 | parallel -j1 true
ended=$(now)
echo "parallel_true $begun $ended 0 200" >>"$dir/times"
python3 - "$dir/times" <<'PY'
import statistics, sys
rows = {}
for line in open(sys.argv[1]):
    name, begun, ended, ab, *count = line.split()
    count = int(count[0]) if count else 1
    rows.setdefault(name, []).append(((int(ended) - int(begun)) / 1e6 - float(ab) * 1e3) / count)
median = {name: statistics.median(v) for name, v in rows.items()}
print(f"{'fixed cost of an iteration beside ab':44} {'median ms':>10} {'min':>8} {'max':>8}  script ÷ this")
label = {"vptest_plain": "vptest run --iter N, no capture", "vptest_captured": "vptest run --iter N, capture in both guests",
         "one_process": "vptest run, one process for all, no capture", "script": "bash + ip + tc + ethtool script",
         "parallel_true": "GNU parallel -j1 true (dispatch alone)"}
for name, values in rows.items():
    ratio = f"{median['script'] / median[name]:.1f}" if name.startswith(("vptest", "one")) else ""
    print(f"{label[name]:44} {median[name]:10.1f} {min(values):8.1f} {max(values):8.1f}  {ratio}")
PY
