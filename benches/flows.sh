#!/bin/bash
# CPU time and peak memory of `vptest flows` beside tcptrace, tshark and the cost of reading alone.
#
#   benches/flows.sh [DIRECTORY]          # default: a temporary one, removed at the end
#
# Makes its own captures with ab, iperf3 and nginx between two namespaces (root, tcpdump, tcptrace needed): many short
# connections, few long ones, a lossy path; full size and cut at 96 bytes. Every program reads every capture ROUNDS
# times, in turns, from the page cache, output to /dev/null; the median of user + system time counts. Rows are
# compared with tcptrace's first, cell by cell.
#
# CONNECTIONS (100000), ROUNDS (3) and VPTEST (target/release/vptest) may be set.
set -eu
cd "$(dirname "$0")/.."
CONNECTIONS=${CONNECTIONS:-100000} ROUNDS=${ROUNDS:-3} VPTEST=$(realpath "${VPTEST:-target/release/vptest}")
if [ $# -gt 0 ]; then D=$(realpath "$1"); mkdir -p "$D"; else D=$(mktemp -d); REMOVE=yes; fi
C=vpbc$$ S=vpbs$$
cleanup() {
    [ -f "$D/nginx.pid" ] && kill "$(cat "$D/nginx.pid")" 2>/dev/null || :
    for n in $C $S; do ip netns del $n 2>/dev/null || :; done
    [ -n "${REMOVE:-}" ] && rm -rf "$D" || :
}
trap cleanup EXIT

links() {
    ip netns add $C; ip netns add $S
    ip link add c0 netns $C type veth peer name s0 netns $S
    ip -n $C addr add 10.77.0.1/24 dev c0; ip -n $C addr add 10.77.0.3/24 dev c0; ip -n $S addr add 10.77.0.2/24 dev s0
    for x in "$C c0" "$S s0"; do
        set -- $x
        ip -n $1 link set lo up; ip -n $1 link set $2 up
        ip netns exec $1 ethtool -K $2 tso off gso off gro off >/dev/null
        ip netns exec $1 sysctl -qw net.ipv4.ip_local_port_range="1024 65535" net.ipv4.tcp_tw_reuse=1
    done
}

server() {
    mkdir -p "$D/www"; chmod a+rx "$D" "$D/www"
    head -c 300 /dev/zero | tr '\0' x >"$D/www/index.html"; head -c 4000000 /dev/zero >"$D/www/big"
    cat >"$D/nginx.conf" <<E
worker_processes 1; pid $D/nginx.pid; error_log $D/nginx.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 10000000; client_body_temp_path $D/t1; proxy_temp_path $D/t2;
fastcgi_temp_path $D/t3; uwsgi_temp_path $D/t4; scgi_temp_path $D/t5; server { listen 80; root $D/www; } }
E
    ip netns exec $S nginx -c "$D/nginx.conf"
}

# capture NAME SNAPLEN COMMAND...: what goes over the link while the command runs.
capture() {
    local name=$1 snaplen=$2; shift 2
    ip netns exec $C tcpdump -U -i c0 -B 262144 -s "$snaplen" -w "$D/$name.pcap" tcp 2>"$D/$name.log" &
    local pid=$!
    until grep -q 'listening on' "$D/$name.log"; do sleep 0.1; done
    ip netns exec $C "$@" >"$D/$name.out" 2>&1
    sleep 1; kill -INT $pid; wait $pid || :
    grep dropped "$D/$name.log" | sed "s/^/$name: /"
}

make_captures() {
    links; server
    local half=$((CONNECTIONS / 2)) url=http://10.77.0.2
    # Two source addresses: one has fewer ports than that.
    capture short1 262144 ab -q -n $half -c 16 $url/index.html
    capture short2 262144 ab -q -B 10.77.0.3 -n $half -c 16 $url/index.html
    { cat "$D/short1.pcap"; tail -c +25 "$D/short2.pcap"; } >"$D/short.pcap"; rm "$D"/short[12].pcap
    capture short96 96 ab -q -n $half -c 16 $url/index.html
    capture long 262144 ab -q -k -n 100 -c 16 $url/big
    capture long96 96 ab -q -k -n 400000 -c 16 $url/index.html
    ip netns exec $S iperf3 -s -D -1 >/dev/null
    # A queue too short for the window loses packets; there is no netem everywhere.
    ip netns exec $C tc qdisc add dev c0 root tbf rate 200mbit burst 20kb limit 30kb
    sleep 0.5
    capture lossy 262144 iperf3 -c 10.77.0.2 -P 8 -t 8
}

# used TIMES COMMAND...: user + system seconds and peak KiB; TIMES runs at once, as time counts in hundredths of a second.
used() {
    local times=$1; shift
    # shellcheck disable=SC2016
    /usr/bin/time -o "$D/time" -f '%U %S %M' bash -c 'n=$1; shift; for ((i = 0; i < n; i++)); do "$@"; done' - "$times" "$@" \
        >/dev/null 2>&1 || :
    tail -1 "$D/time" | awk -v n="$times" '{print ($1 + $2) / n, $3}'
}

peers() {
    echo "vptest $VPTEST flows"
    echo "tcptrace tcptrace -lnrW --csv"
    command -v tshark >/dev/null && echo "tshark tshark -n -q -z conv,tcp -r"
    echo "tcpdump tcpdump -w /dev/null -r"
    echo "cat cat"
}

measure() {
    local file=$1 round name command rounds=$ROUNDS times=5
    # tcptrace may need minutes for this one.
    [ "$(basename "$file")" != short.pcap ] || { rounds=1; times=1; }
    echo; echo "$(basename "$file"): $(stat -c %s "$file") bytes, $(tcpdump -nr "$file" 2>/dev/null | wc -l) packets"
    benches/flows_cells.py "$VPTEST" "$file" | sed 's/^/  /' || :
    rm -f "$D"/result.*
    for round in $(seq "$rounds"); do
        while read -r name command; do
            # shellcheck disable=SC2086
            used "$([ "$name" = tshark ] && echo 1 || echo "$times")" $command "$file" >>"$D/result.$name"
        done < <(peers)
    done
    while read -r name command; do
        sort -n "$D/result.$name" | awk -v name="$name" '{cpu[NR] = $1; if ($2 > mem) mem = $2} END {print name, cpu[int((NR + 1) / 2)], mem}'
    done < <(peers) | awk '
        NR == 1 {cpu = $2; mem = $3}
        {printf "  %-9s %8.3f s CPU %9d KiB", $1, $2, $3}
        NR > 1 {printf "   %6.1f x the CPU, %5.1f x the memory of vptest", $2 / (cpu > 0 ? cpu : 0.01), $3 / mem}
        {print ""}'
}

[ -f "$D/short.pcap" ] || make_captures
for file in "$D"/*.pcap; do measure "$file"; done
echo; echo "both cores: the same capture four times in one call"
/usr/bin/time -f '  %e s elapsed, %U + %S s CPU' "$VPTEST" flows "$D/long96.pcap" "$D/long96.pcap" "$D/long96.pcap" "$D/long96.pcap" >/dev/null
