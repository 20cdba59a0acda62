#!/bin/bash
# What tracers cost ApacheBench against nginx: CPU time for each request, all processes of the workload, as a ratio to the
# same without a tracer in the same round; `nothing` is a program on the tracepoints that does nothing. Needs ab, nginx,
# python3 and, for the others, strace, linux-perf, bpftrace, sysdig.
#
#   benches/syscalls.sh [ROUNDS] [REQUESTS]
#   ONLY="none vptest" benches/syscalls.sh     these alone
set -euo pipefail
rounds=${1:-5} requests=${2:-20000}
vptest=${VPTEST:-target/release/vptest}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
port=18090
mkdir "$work/www"
head -c 1000 /dev/zero | tr '\0' x >"$work/www/index.html"
cat >"$work/nginx.conf" <<CONF
user root; daemon off; worker_processes 1; pid $work/nginx.pid; error_log $work/error.log;
events { worker_connections 512; }
http { access_log off; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f;
  uwsgi_temp_path $work/u; scgi_temp_path $work/s; server { listen 127.0.0.1:$port; root $work/www; } }
CONF
cat >"$work/load" <<LOAD
#!/bin/bash
# Seconds of CPU of nginx and ab go to the file.
nginx -c "$work/nginx.conf" & server=\$!
until (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; do :; done
ab -q -n \$1 -c 10 http://127.0.0.1:$port/ >"$work/ab" 2>&1
kill -QUIT \$server; wait \$server
times >"$work/times"
LOAD
chmod +x "$work/load"
seconds() { tail -1 "$work/times" | tr 'ms' '  ' | awk '{ print $1 * 60 + $2 + $3 * 60 + $4 }'; }
wanted() { [[ " ${ONLY:-$1} " == *" $1 "* ]]; }
have() { command -v "$1" >/dev/null || { echo "$1: not installed"; return 1; }; }

# A tracer that is slow gets fewer requests.
measure() { # name, share of the requests, command before the load
  local name=$1 n=$((requests / $2)); shift 2
  wanted "$name" || return 0
  local TIMEFORMAT='%U %S'
  if ! { time timeout 300 "$@" "$work/load" $n >"$work/out" 2>"$work/err"; } 2>"$work/total"; then
    echo "$name: cannot run here: $(grep -v '^$' "$work/err" | tail -1)"; return
  fi
  echo "$name $(seconds) $n $(awk '{ print $1 + $2 }' "$work/total")" >>"$work/results"
}
# Says when the trace that vptest printed last is not whole; the bench fails at its end then.
whole() {
  python3 - "$work/out" "$1" 2>&1 <<'CHECK' || touch "$work/lost"
import json, sys
losses = json.load(open(sys.argv[1]))["losses"]
lost = {name: n for name in losses[0] if name != "cpu" if (n := sum(loss[name] for loss in losses))}
sys.exit(f"{sys.argv[2]} lost {lost}" if lost else 0)
CHECK
}
beside() { # name, seconds to start, tracer...: one that follows the whole machine from outside
  local name=$1; shift
  wanted "$name" || return 0
  "$@" >"$work/trace" 2>"$work/err" & local tracer=$!
  sleep 4 # these say nothing when they are ready; what they miss at the beginning flatters them
  if ! kill -0 $tracer 2>/dev/null; then
    echo "$name: cannot run here: $(grep -v '^$' "$work/err" | tail -1)"; wait $tracer || true; return
  fi
  "$work/load" $requests
  if ! kill -INT $tracer 2>/dev/null; then
    echo "$name: ended before the load did: $(grep -v '^$' "$work/err" | tail -1)"; return
  fi
  wait $tracer 2>/dev/null || true
  echo "$name $(seconds) $requests" >>"$work/results"
}

for round in $(seq "$rounds"); do
  measure none 1 "$vptest" trace --off --
  measure nothing 1 python3 "$(dirname "$0")/empty_bpf.py" "$vptest" trace --off --
  measure vptest 1 "$vptest" trace --source bpf --
  ! wanted vptest || whole vptest
  measure vptest-log 1 "$vptest" trace --source bpf --log "$work/log.zst" --
  ! wanted vptest-log || whole vptest-log
  measure vptest-perf 1 "$vptest" trace --source perf --
  ! wanted vptest-perf || whole vptest-perf
  if have strace; then measure strace-f 10 strace -f -c -o "$work/strace"; fi
  if have perf; then
    measure perf-trace 10 perf trace -o "$work/perf.trace" --
    measure perf-record 1 perf record -q -o "$work/perf.data" -m 4M -e raw_syscalls:sys_enter,raw_syscalls:sys_exit --
  fi
  if have bpftrace; then
    beside bpftrace bpftrace -e 'tracepoint:raw_syscalls:sys_enter { @[comm, args->id] = count(); }'
  fi
  if have sysdig; then beside sysdig sysdig -w "$work/sysdig.scap"; fi
done | sort -u
# What the tracers outside the workload's tree take themselves is not known here.
awk '{ per = $2 / $3 * 1e6; if (!($1 in n)) order[++k] = $1; n[$1]++; sum[$1] += per; if (NF > 3) own[$1] += ($4 - $2) / $3 * 1e6 }
     END { for (i = 1; i <= k; i++) { t = order[i]
       printf "%-12s %8.1f us of CPU a request  %6.2f x  (%d rounds)", t, sum[t] / n[t], sum[t] / n[t] / (sum["none"] / n["none"]), n[t]
       if (t in own) printf "  and %.1f us of the tracer itself", own[t] / n[t]
       print "" } }' "$work/results"
grep -h Failed "$work/ab"
[ ! -e "$work/lost" ]
