#!/usr/bin/env python3
"""The fixed cost of an iteration on the testbed `physical`, beside the workload: from the beginning of one iteration to the
beginning of the next, less the 1.2 s that each client sleeps after 100 requests of ab, which count as fixed cost.
Nodes are two namespaces with an sshd each, so that nothing is waited for on a wire. Needs root, OpenSSH, ab, iproute2, and a release build.

physical.py [ROUNDS]
"""
import pathlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile

from lab import VPTEST, Lab, sh

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
# More than a second: a node answers one probe of the path a second, and others only when they are repeated.
SLEEP = 1.2
CLIENT = f"ab -q -n 100 http://{{server}}:{{port}}/ >/dev/null && sleep {SLEEP}"
WORKLOAD = f"""preset = "command"
server = ["{{vptest}}", "serve-http", "--listen", "{{server}}:{{port}}"]
ready = {{ output = "listening on" }}
client = ["sh", "-c", "{CLIENT}"]
"""
NODES = ["client", "server"]
SETTINGS = 'offload = "off"\nmtu = 1400\nrate = "1000 Mbit/s"'
SYSCTLS = '[testbed.physical.sysctls]\n"net.ipv4.tcp_congestion_control" = "reno"\n'
VARIANTS = {
    "nothing changed, no capture": ("", "", "[]"),
    "settings changed and put back, no capture": (SETTINGS, SYSCTLS, "[]"),
    "settings, capture at both endpoints": (SETTINGS, SYSCTLS, '["endpoint"]'),
}


def spec(directory, variant):
    settings, sysctls, vantage = VARIANTS[variant]
    nodes = ""
    for number, node in enumerate(NODES, 2):
        key = " ".join((directory / f"{node}.pub").read_text().split()[:2])
        nodes += (
            f'[[testbed.physical.nodes]]\nhost = "10.99.0.{number}"\nrole = "{node}"\naddress = "10.98.0.{number}"\n'
            f'host_key = "{key}"\n'
        )
    return (
        f'name = "fixed"\nrepetitions = {ROUNDS}\n[factors]\ntestbed = "physical"\n{settings}\n'
        f"[workload]\n{WORKLOAD}[capture]\nvantage = {vantage}\n"
        f'[testbed.physical]\nuser = "root"\nidentity = "{directory}/user"\n{sysctls}{nodes}'
    )


def run(lab, variant):
    """Milliseconds beside the workload: of the first iteration, and of the others; and medians of the stages."""
    place = pathlib.Path(tempfile.mkdtemp(dir=lab.directory))
    (place / "params.toml").write_text(spec(lab.directory, variant))
    sh(str(VPTEST), "-q", "sweep", str(place / "params.toml"), "-o", str(place / "out"))
    # Exit status 1 says that an iteration was suspect or failed, which is looked at below.
    subprocess.run([*lab.inside, str(VPTEST), "-q", "run", "-o", str(place / "out")], check=False)
    begun, beside, stages, bad = [], [], {}, []
    for path in sorted((place / "out").glob("*.db")):
        db = sqlite3.connect(path)
        started, status, reasons = db.execute("SELECT started_ns, status, reasons FROM iteration").fetchone()
        if status not in ("complete", "suspect"):
            bad.append(f"{status}: {reasons}")
        begun.append(started)
        for stage, duration in db.execute("SELECT name, duration_ns FROM stage WHERE duration_ns IS NOT NULL"):
            stages.setdefault(stage, []).append(duration / 1e6)
    if bad:
        sys.exit(f"{variant}: {bad}")
    for started, following in zip(begun, begun[1:]):
        beside.append((following - started) / 1e6 - SLEEP * 1e3)
    return beside[0], beside[1:], {stage: statistics.median(times[1:]) for stage, times in stages.items()}


def main():
    with Lab(NODES) as lab:
        print(f"{'fixed cost of an iteration, ms':44} {'median':>8} {'p95':>8} {'max':>8} {'first':>8}")
        for variant in VARIANTS:
            first, others, stages = run(lab, variant)
            others.sort()
            p95 = others[min(len(others) - 1, int(0.95 * len(others)))]
            print(f"{variant:44} {statistics.median(others):8.0f} {p95:8.0f} {others[-1]:8.0f} {first:8.0f}")
            print("    " + ", ".join(f"{stage} {median:.0f}" for stage, median in stages.items()))


main()
