#!/bin/sh
# The built-in HTTP server against nginx (one process), under ab over loopback, in alternating rounds.
# Usage: benches/http_server.sh [VPTEST [ROUNDS]]. Prints the median requests/s of both
# servers, the median of the rounds' ratios with its range, and how much CPU time the built-in server used per nginx's.
set -eu
vptest=${1:-target/release/vptest}
rounds=${2:-7}
dir=$(mktemp -d)
trap 'kill $server $nginx 2>/dev/null || :; rm -rf "$dir"' EXIT
server= nginx=

taskset -c 1 "$vptest" serve-http --listen 127.0.0.1:18190 >"$dir/announced" &
server=$!
until [ -s "$dir/announced" ]; do sleep 0.01; done

python3 - "$dir" <<'P'
import sys, urllib.request
for name, url in ("root.html", "/"), ("1MB", "/image.png?size=1MB"), ("16MB", "/image.png?size=16MB"):
    with urllib.request.urlopen("http://127.0.0.1:18190" + url) as answer, open(f"{sys.argv[1]}/{name}", "wb") as file:
        file.write(answer.read())
P
cat >"$dir/nginx.conf" <<N
user root root; daemon off; master_process off; pid $dir/nginx.pid; error_log stderr warn;
events { worker_connections 1024; }
http {
    access_log off; server_tokens off; sendfile on; tcp_nodelay on;
    keepalive_requests 1000000000; keepalive_timeout 1d;
    client_body_temp_path $dir/a; proxy_temp_path $dir/b; fastcgi_temp_path $dir/c; uwsgi_temp_path $dir/d; scgi_temp_path $dir/e;
    server {
        listen 127.0.0.1:18191 backlog=4096; root $dir;
        location = / { default_type text/html; rewrite ^ /root.html break; }
    }
}
N
taskset -c 1 nginx -p "$dir" -c "$dir/nginx.conf" &
nginx=$!
until curl -so "$dir/body" http://127.0.0.1:18191/ 2>/dev/null; do sleep 0.01; done

rps() { taskset -c 0 ab -q "$@" | awk '/^Failed requests/ && $3 != 0 || /^Non-2xx/ { exit 1 } /^Requests per second/ { print $4 }'; }
# User and system time of a process in clock ticks.
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
compare() { # name, nginx's path, our URL, ab's options
    name=$1 theirs=$2 ours=$3
    shift 3
    for round in $(seq "$rounds"); do
        t0=$(ticks $server) u0=$(ticks $nginx)
        a=$(rps "$@" "http://127.0.0.1:18190$ours")
        b=$(rps "$@" "http://127.0.0.1:18191$theirs")
        echo "$a $b $(($(ticks $server) - t0)) $(($(ticks $nginx) - u0))"
    done | awk -v name="$name" '{ a[NR] = $1; b[NR] = $2; r[NR] = $1 / $2; t += $3; u += $4 }
        function median(x, n,   i, j, t) {
            for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (x[j] < x[i]) { t = x[i]; x[i] = x[j]; x[j] = t }
            return x[int((n + 1) / 2)]
        }
        END { lo = 1e9; for (i in r) { if (r[i] < lo) lo = r[i]; if (r[i] > hi) hi = r[i] }
              printf "%-18s built-in %9.1f/s  nginx %9.1f/s  ratio %.3f (%.3f to %.3f)  CPU %.2f\n", name, median(a, NR), median(b, NR), median(r, NR), lo, hi, u ? t / u : 0 }'
}
compare "/"             / /                         -c 10 -n 10000
compare "/ -k"          / /                         -c 10 -k -n 40000
compare "1 MB"          /1MB "/image.png?size=1MB"   -c 10 -n 1500
compare "1 MB -k"       /1MB "/image.png?size=1MB"   -c 10 -k -n 1500
compare "16 MB"         /16MB "/image.png?size=16MB" -c 10 -n 150
