#!/usr/bin/env python3
"""The work of `benches/plan.rs` as a short script does it: expand, hash, shuffle, write. Prints seconds and MiB.

usage: plan_peer.py TUPLES   (a million iterations in all)
"""
import hashlib
import itertools
import json
import random
import resource
import sys
import tempfile
import time

tuples = int(sys.argv[1])
repetitions = 1_000_000 // tuples
start = time.monotonic()
factors = {
    "testbed": ["netns"],
    "pairs": [1, 2],
    "offload": [True, False],
    "rate": ["1 Gbit/s", None],
    "workers": [1, 10],
    "request": [{"url": "/image.png?size=16MB", "count": 1000}],
    "instrument": [True, False],
    "mtu": [1500],
    "hops": [["A", "B"]],
    "stress_cpu": [0],
    "round": list(range(tuples // 32)),
}
rows = []
for values in itertools.product(*factors.values()):
    row = dict(zip(factors, values))
    text = json.dumps(row, sort_keys=True, separators=(",", ":"))
    rows.append((hashlib.sha256(text.encode()).hexdigest()[:12], row))
random.seed(42)
iterations = []
for block in range(1, repetitions + 1):
    order = list(range(len(rows)))
    random.shuffle(order)
    iterations += [(index, block) for index in order]
with tempfile.TemporaryFile("w") as out:
    json.dump({"tuples": rows, "iterations": iterations}, out)
seconds = time.monotonic() - start
mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{len(rows)} tuples: {seconds:.2f} s, {mebibytes:.0f} MiB")
