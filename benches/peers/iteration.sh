#!/usr/bin/env bash
# The peer of one `vptest run --iter N`: what people write by hand. Two namespaces joined through a bridge in a third,
# rate limit and offloads set with tc and ethtool, server, readiness by polling, ab, take-down.
# iteration.sh SERVER_PROGRAM REQUESTS URL → prints ab's "Time taken" in seconds.
set -euo pipefail
server=$1 requests=$2 url=$3
tag=b$$
c=$tag-c s=$tag-s h=$tag-h
trap 'kill "${pid:-}" 2>/dev/null || true; for n in $c $s $h; do ip netns del $n 2>/dev/null || true; done' EXIT
for n in $c $s $h; do ip netns add $n; ip -n $n link set lo up; done
ip link add eth0 netns $c type veth peer name c1 netns $h
ip link add eth0 netns $s type veth peer name s1 netns $h
ip -n $h link add br1 type bridge
for port in c1 s1; do
    ip -n $h link set $port master br1
    ip -n $h link set $port up
    ip netns exec $h tc qdisc add dev $port root tbf rate 100mbit burst 64kb latency 50ms
    ip netns exec $h ethtool -K $port tso off gso off gro off sg off >/dev/null
done
ip -n $h link set br1 up
ip -n $c addr add 10.1.0.1/24 dev eth0; ip -n $c link set eth0 up
ip -n $s addr add 10.1.0.2/24 dev eth0; ip -n $s link set eth0 up
for n in $c $s; do ip netns exec $n ethtool -K eth0 tso off gso off gro off sg off >/dev/null; done
ip netns exec $s "$server" serve-http --listen 10.1.0.2:80 >/dev/null 2>&1 &
pid=$!
until ip netns exec $c bash -c 'exec 3<>/dev/tcp/10.1.0.2/80' 2>/dev/null; do sleep 0.01; done
ip netns exec $c ab -q -n "$requests" "http://10.1.0.2$url" | sed -n 's/^Time taken for tests: *\([0-9.]*\).*/\1/p'
