#!/usr/bin/env python3
"""The fixed cost of an iteration on minimega beside ab itself, against the shape of the reference study's script (peers/minimega.sh): one
pair, addresses, offloads and rate set, captures in the guests and at their taps, results back, everything taken down. And what one command costs
on minimega's socket, against `minimega -e`.

Needs root, a minimega at the usual socket and its program in PATH, cgroups of version 1 for containers, and a kernel and an initramfs with busybox,
ab and miniccc, the drivers of virtio among them.

minimega.py KERNEL INITRD [ROUNDS [ROUNDS_OF_THE_SCRIPT]]      default: 5 2; VPTEST is another program than that of the release build
"""
import json
import os
import pathlib
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

from lab import VPTEST

KERNEL, INITRD = (os.path.abspath(path) for path in sys.argv[1:3])
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
OF_SCRIPT = int(sys.argv[4]) if len(sys.argv) > 4 else 2
PROGRAM = os.environ.get("VPTEST", str(VPTEST))
SCRIPT = pathlib.Path(__file__).resolve().parent / "peers/minimega.sh"
SOCKET = "/tmp/minimega/minimega"
REQUESTS, RATE = 50, 50
OWN = f'kernel = "{KERNEL}"\ninitrd = "{INITRD}"\nappend = ["console=ttyS0", "quiet", "ipv6.disable_ipv6=1"]\n'
GUEST = 'driver = "virtio-net-pci"\n'
WAYS = {
    "vptest's image, agent at a port": ("minimega-kvm", GUEST, ""),
    "own image, agent at a port": ("minimega-kvm", GUEST, OWN + 'reach = "port"\n'),
    "own image, agent by letters": ("minimega-kvm", GUEST, OWN + 'reach = "cc"\n'),
    "containers": ("minimega-container", "", ""),
}
SCRIPTS = "the study's script, own image"
PORT, LETTERS = list(WAYS)[1:3]
HEARTBEAT, GOAL = 5.0, 6


def spec(way):
    testbed, factors, minimega = WAYS[way]
    # The first one makes the image and is not counted.
    return (
        f'name = "fixed"\nrepetitions = {ROUNDS + 1}\ntimeout = "500 s"\n[factors]\ntestbed = "{testbed}"\n{factors}'
        f'memory = "1 GiB"\noffload = "off"\nrate = "{RATE} Mbit/s"\nrequest = {{ url = "/", count = {REQUESTS} }}\n'
        '[workload]\npreset = "ab"\n[capture]\nvantage = ["guest", "host"]\n'
        '[verify]\nforeign_cpu = "off"\nsteal = "off"\nclient_cpu = "off"\n'
        f'[testbed.minimega]\nboot_timeout = "300 s"\n{minimega}'
    )


def iteration(out, number):
    """Seconds beside ab, seconds of each stage, and round trips through cc by node."""
    begun = time.monotonic()
    # What became of it is looked at below.
    subprocess.run([PROGRAM, "-q", "run", "-o", str(out), "--iter", str(number)], check=False)
    took = time.monotonic() - begun
    [path] = out.glob(f"{number:06}-*.db")
    db = sqlite3.connect(path)
    status, reasons = db.execute("SELECT status, reasons FROM iteration").fetchone()
    # On a busy host, letters tell clocks only roughly, which is said.
    if status != "complete" and not (status == "suspect" and all("the clock of" in reason for reason in json.loads(reasons))):
        sys.exit(f"{path}: {status}: {reasons}")
    [(of_ab,)] = db.execute("SELECT value FROM metric WHERE name = 'time_taken' AND pair = 1")
    stages = {name: took / 1e9 for name, took in db.execute("SELECT name, duration_ns FROM stage WHERE duration_ns IS NOT NULL")}
    trips = dict(db.execute("SELECT host, CAST(value AS INTEGER) FROM environment WHERE name = 'testbed.cc.round_trips'"))
    return took - of_ab, stages, trips


def script():
    begun = time.monotonic()
    argv = [str(SCRIPT), KERNEL, INITRD, str(REQUESTS), "/", str(RATE)]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return time.monotonic() - begun - float(said.split()[-1])


def iterations():
    costs, stages, trips = {SCRIPTS: []}, {}, {}
    with tempfile.TemporaryDirectory() as directory:
        for number, way in enumerate(WAYS):
            out = pathlib.Path(directory) / str(number)
            (out.parent / f"{number}.toml").write_text(spec(way))
            argv = [PROGRAM, "-q", "sweep", f"{out}.toml", "-o", str(out)]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        # In turns, so that the machine's moods hit all alike.
        for turn in range(1, ROUNDS + 2):
            for number, way in enumerate(WAYS):
                cost, of_stages, of_nodes = iteration(pathlib.Path(directory) / str(number), turn)
                print(f"{way}: {cost:.1f} s, round trips {of_nodes or 'none'}", file=sys.stderr, flush=True)
                if turn > 1:
                    costs.setdefault(way, []).append(cost)
                    trips.setdefault(way, []).append(max(of_nodes.values(), default=0))
                    for stage, took in of_stages.items():
                        stages.setdefault(way, {}).setdefault(stage, []).append(took)
            if 1 < turn <= OF_SCRIPT + 1:
                costs[SCRIPTS].append(script())
                print(f"{SCRIPTS}: {costs[SCRIPTS][-1]:.1f} s", file=sys.stderr, flush=True)
    tell(costs, stages, trips)


def tell(costs, stages, trips):
    peer = statistics.median(costs[SCRIPTS])
    print(f"{'fixed cost of an iteration beside ab, s':40} {'median':>7} {'min':>7} {'max':>7} {'script ÷':>9}  round trips of a guest")
    for way, values in costs.items():
        median = statistics.median(values)
        counts = sorted(trips.get(way, []))
        between = " to ".join(str(count) for count in sorted({*counts[:1], *counts[-1:]})) if counts else "commands only"
        print(f"{way:40} {median:7.1f} {min(values):7.1f} {max(values):7.1f} {peer / median:9.1f}  {between}")
        if way in stages:
            print("    " + ", ".join(f"{stage} {statistics.median(took):.1f}" for stage, took in stages[way].items()))
    more = statistics.median(costs[LETTERS]) - statistics.median(costs[PORT])
    print(f"letters instead of a port: {more:+.1f} s an iteration; {GOAL} round trips of a heartbeat each: {GOAL * HEARTBEAT:.0f} s")


class Connection:
    """One to minimega's socket."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(SOCKET)
        self.answers = self.socket.makefile("rb")

    def command(self, text):
        self.socket.sendall(json.dumps({"Command": text, "Suggest": "", "PlumbPipe": ""}).encode() + b"\n")
        while True:
            answer = json.loads(self.answers.readline())
            if not (answer["More"] or answer["Status"]):
                return answer

    def close(self):
        self.answers.close()
        self.socket.close()


def connect_and_ask():
    connection = Connection()
    connection.command("version")
    connection.close()


def commands():
    def median(count, work):
        took = []
        for _ in range(count):
            begun = time.perf_counter()
            work()
            took.append((time.perf_counter() - begun) * 1e3)
        return statistics.median(took)

    def by_program():
        subprocess.run(["minimega", "-e", "version"], check=True, stdout=subprocess.DEVNULL)

    connection = Connection()
    print(f"{'one command (version), median ms':40}")
    print(f"{'on an open connection (200)':40} {median(200, lambda: connection.command('version')):8.3f}")
    print(f"{'with a connection of its own (200)':40} {median(200, connect_and_ask):8.3f}")
    print(f"{'minimega -e (50)':40} {median(50, by_program):8.1f}")
    connection.close()


def main():
    commands()
    iterations()


main()
