#!/usr/bin/env bash
# Every measurement of benches/README.md, one after the other. Takes about half an hour; the machine should do nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release
heading() { printf '\n== %s\n' "$*"; }
heading "plan of 10^6 iterations";                    cargo bench --bench plan; python3 benches/plan_peer.py
heading "set-up and tear-down of a pair";             cargo bench --bench netns_setup
heading "fixed cost of an iteration";                 benches/iteration.sh
heading "fixed cost on physical nodes";               benches/physical.py
heading "dispatch of iterations to hosts";             benches/dispatch.py
heading "capture: requests/s with and without";       cargo bench --bench capture -- requests
heading "capture: a gigabit";                         cargo bench --bench capture -- gigabit
heading "HTTP servers";                               benches/http_server.sh
heading "boot of guests to the agent's greeting";        cargo bench --bench boot
heading "merge of 10,000 files";                      benches/merge.sh
heading "questions to a large campaign, and its page"; benches/report.sh
heading "connection statistics of captures";           benches/flows.sh
