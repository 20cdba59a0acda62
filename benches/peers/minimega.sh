#!/usr/bin/env bash
# The peer of one `vptest run --iter N` on minimega: the shape of the reference study's script, which gives all commands by
# `minimega -e` and sleeps until they should have been carried out. One pair of guests with busybox, ab and miniccc: addresses,
# rate and captures set, server, ab, its output brought, take-down. Its sleeps are the study's: 60 s until guests are up, 10 before
# the clients, 10 after them, looks every 5 s, then 10 and 30; only a file that is still under way at the end is waited for.
# minimega.sh KERNEL INITRD REQUESTS URL RATE_MBIT → prints ab's "Time taken" in seconds. `minimega` and its usual socket are used.
set -euo pipefail
kernel=$1 initrd=$2 requests=$3 url=$4 rate=$5
namespace=que$RANDOM$RANDOM
files=/tmp/minimega/files/$namespace
trap '{ minimega -e clear namespace $namespace; minimega -e file delete $namespace; rm -rf "$files"; } >&2' EXIT
mm() { minimega -e namespace "$namespace" "$@"; }

mm vm config kernel "$kernel"
mm vm config initrd "$initrd"
mm vm config memory 1024
mm vm config net LAN,virtio-net-pci
for role in server client; do
    mm vm config append "console=ttyS0 quiet ipv6.disable_ipv6=1 vmname=$role"
    mm vm config tag name "$role"
    mm vm launch kvm "$role"
done
number=1
for role in server client; do
    mm cc filter "name=$role"
    mm cc exec mkdir -p /que /www
    mm cc exec ip link set eth0 up
    mm cc exec ip addr add "10.0.0.$number/24" dev eth0
    number=$((number + 1))
done
mkdir -p "$files"
mm capture pcap snaplen 200
for role in server client; do mm capture pcap vm "$role" 0 "$namespace/$role.pcap"; done
mm cc filter name=server
mm cc exec cp /etc/passwd /www/index.html
mm cc background httpd -f -p 80 -h /www
mm qos add all 0 rate "$rate" mbit
mm vm start all
sleep 60

sleep 10
mm cc filter name=client
mm .preprocess false cc exec wget -q -O /dev/null "http://10.0.0.1$url"
mm .preprocess false cc background sh -c "ab -s 60 -l -n $requests http://10.0.0.1$url > /que/ab.out 2> /que/ab.err"
sleep 10
while mm cc process list all | grep -w ab >/dev/null; do sleep 5; done
sleep 10

mm clear capture
mm clear cc filter
mm cc process kill all
mm cc filter name=client
mm cc recv /que/ab.out
sleep 30
while ! output=$(find "$files/miniccc_responses" -name ab.out | grep .); do sleep 1; done
sed -n 's/^Time taken for tests: *\([0-9.]*\).*/\1/p' "$output"
