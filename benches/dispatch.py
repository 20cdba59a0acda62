#!/usr/bin/env python3
"""What it costs to have an iteration run on another host: vptest's `fake` iterations, which do nothing, against GNU parallel, which runs
`true`. Hosts are two namespaces with an sshd each. Needs root, OpenSSH, iproute2, GNU parallel, and a release build.

dispatch.py [ITERATIONS]      default: 10000
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from lab import VPTEST, Lab, sh

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
SPEC = f"""name = "dispatch"
repetitions = {ITERATIONS // 2}
[factors]
testbed = "fake"
workers = [1, 10]
[workload]
preset = "command"
client = ["sample", "rps", "1000", "10"]
[verify]
foreign_cpu = "off"
steal = "off"
[[workload.metric]]
name = "rps"
unit = "1/s"
regex = 'rps ([0-9.]+)'
"""


def timed(*argv, **kinds):
    begun = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kinds)
    return time.monotonic() - begun


def tell(what, seconds, count):
    print(f"{what:58} {seconds:8.1f} s {seconds / count * 1e3:8.2f} ms each", flush=True)


def campaign(lab, name, *more, environment=None):
    place = pathlib.Path(tempfile.mkdtemp(dir=lab.directory))
    (place / "params.toml").write_text(SPEC)
    sh(str(VPTEST), "-q", "sweep", str(place / "params.toml"), "-o", str(place / "out"))
    seconds = timed(*lab.inside, str(VPTEST), "-q", "run", "-o", str(place / "out"), *more, env=environment)
    count = len(list((place / "out").glob("*.db")))
    if count != ITERATIONS:
        sys.exit(f"{name}: {count} of {ITERATIONS} iterations are there")
    tell(name, seconds, count)
    shutil.rmtree(place)


def main():
    with Lab(["kn1", "kn2"]) as lab:
        environment = {**os.environ, "PARALLEL_SSH": lab.ssh, "HOME": str(lab.directory)}
        numbers = "\n".join(map(str, range(ITERATIONS))).encode()
        jobs = ["parallel", "--will-cite", "-j1"]
        begun = time.monotonic()
        subprocess.run([*jobs, "true"], input=numbers, check=True, env=environment)
        tell("parallel -j1 true, here", time.monotonic() - begun, ITERATIONS)
        remote = [*lab.inside, *jobs, "-S", ",".join(lab.hosts), "true"]
        begun = time.monotonic()
        subprocess.run(remote, input=numbers, check=True, env=environment, stderr=subprocess.DEVNULL)
        tell("parallel -j1 -S two hosts true", time.monotonic() - begun, ITERATIONS)
        campaign(lab, "vptest run, here: whole iterations, stored")
        on = "parallel:" + ",".join(lab.hosts)
        campaign(lab, "vptest run --on parallel:two hosts, stored here", "--on", on, environment=environment)


main()
