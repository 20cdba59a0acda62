#!/usr/bin/env python3
"""What it costs to have an iteration run on another host: vptest's `fake` iterations, which do nothing but are stored, against GNU
parallel and srun, which run `true`. Hosts are two namespaces with an sshd each; Slurm has two nodes here. Needs root, OpenSSH, iproute2,
GNU parallel, Slurm, and a release build.

dispatch.py [ITERATIONS [OF_PEERS_ON_HOSTS]]      default: 10000 1000
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from lab import VPTEST, Lab, Slurm, sh

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
# Those that take a tenth of a second or more each.
SLOW = int(sys.argv[2]) if len(sys.argv) > 2 else min(ITERATIONS, 1000)
SPEC = """name = "dispatch"
repetitions = COUNT
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
    kinds.setdefault("input", b"")
    begun = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kinds)
    return time.monotonic() - begun


def tell(what, seconds, count):
    print(f"{what:58} {seconds:8.1f} s {seconds / count * 1e3:8.2f} ms each", flush=True)


def campaign(lab, name, count, *more, environment=None, inside=()):
    place = pathlib.Path(tempfile.mkdtemp(dir=lab.directory))
    place.chmod(0o755)
    (place / "params.toml").write_text(SPEC.replace("COUNT", str(count // 2)))
    sh(str(VPTEST), "-q", "sweep", str(place / "params.toml"), "-o", str(place / "out"))
    seconds = timed(*inside, str(VPTEST), "-q", "run", "-o", str(place / "out"), *more, env=environment)
    there = len(list((place / "out").glob("*.db")))
    if there != count:
        sys.exit(f"{name}: {there} of {count} iterations are there")
    tell(name, seconds, count)
    shutil.rmtree(place)


def over_ssh(numbers):
    with Lab(["kn1", "kn2"]) as lab:
        environment = {**os.environ, "PARALLEL_SSH": lab.ssh, "HOME": str(lab.directory)}
        jobs = ["parallel", "--will-cite", "-j1"]
        tell("parallel -j1 true, here", timed(*jobs, "true", input=numbers(ITERATIONS), env=environment), ITERATIONS)
        remote = [*lab.inside, *jobs, "-S", ",".join(lab.hosts), "true"]
        tell("parallel -j1 -S two hosts true", timed(*remote, input=numbers(SLOW), env=environment), SLOW)
        campaign(lab, "vptest run, here: whole iterations, stored", ITERATIONS)
        on = "parallel:" + ",".join(lab.hosts)
        campaign(lab, "vptest run --on parallel:two hosts, stored here", ITERATIONS, "--on", on, environment=environment, inside=lab.inside)


def in_slurm(numbers):
    with Slurm(["n1", "n2"]) as lab:
        srun = ["parallel", "--will-cite", "-j2", "srun", "--exclusive", "--nodes=1", "true"]
        tell("srun true, two at a time", timed(*srun, input=numbers(SLOW), env=lab.environment), SLOW)
        # Each is a job of its own to Slurm.
        campaign(lab, "vptest run --on slurm: two nodes, stored", SLOW // 10, "--on", "slurm", environment=lab.environment)


def main():
    def numbers(count):
        return "".join(f"{number}\n" for number in range(count)).encode()

    over_ssh(numbers)
    in_slurm(numbers)


main()
