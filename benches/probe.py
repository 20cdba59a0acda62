#!/usr/bin/env python3
"""What a path probe costs a workload, and how well its sender keeps its schedule, beside irtt.

    benches/probe.py VPTEST [ROUNDS [REQUESTS]]

Everything runs on the loopback interface. Cost: CPU time (user and system) of ApacheBench and of vptest's own HTTP server for each
request, without a probe and with vptest's at 100 packets/s, in turn. Schedule: by how much the times between two packets
differ from 10 ms, by each tool's own times of departure.
"""

import json, os, resource, secrets, signal, statistics, subprocess, sys, time

vptest, rounds, requests = sys.argv[1], int((sys.argv + [5])[2]) if len(sys.argv) > 2 else 5, 20000
if len(sys.argv) > 3:
    requests = int(sys.argv[3])
LOCAL = "127.0.0.1"


children = []


def start(arguments, **options):
    children.append(subprocess.Popen(arguments, **options))
    return children[-1]


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Vptest:
    name = "vptest"

    def start(self):
        nonce = secrets.token_hex(16)
        pipe = dict(stdout=subprocess.PIPE, text=True)
        self.reflector = start([vptest, "probe-reflect", "--nonce", nonce, "--on", LOCAL, "--from", LOCAL], **pipe)
        port = json.loads(self.reflector.stdout.readline())["ready"]["port"]
        self.sender = start([vptest, "probe-send", "--nonce", nonce, "--to", f"{LOCAL}:{port}", "--from", LOCAL], **pipe)
        self.sender.stdout.readline()
        self.begun = time.monotonic()

    def stop(self):
        self.used = (cpu(self.sender.pid) + cpu(self.reflector.pid)) / (time.monotonic() - self.begun)
        self.sender.send_signal(signal.SIGTERM)
        report = json.loads(self.sender.stdout.read())["sender"]
        self.reflector.send_signal(signal.SIGTERM)
        reflected = json.loads(self.reflector.stdout.read())["reflector"]
        self.sender.wait(), self.reflector.wait()
        steps = report["sent"][1:]
        sent, rtts = [], []
        total = 0
        for step in report["sent"]:
            total += step
            sent.append(total)
        place = total = hold = 0
        receive = reply = 0
        came, left, number = [], [], 0
        for a, b in zip(reflected["received"], reflected["sent"]):
            receive, reply = receive + a, reply + b
            came.append(receive), left.append(reply)
        for index, n, at in zip(report["answered"], report["number"], report["received"]):
            place, number, total = place + index, number + n, (total + at)
            rtts.append(total - sent[place] - (left[number] - came[number]))
        return steps, rtts, report["missed"]


class Irtt:
    name = "irtt"

    def start(self):
        self.server = start(["irtt", "server", "-b", f"{LOCAL}:21997"], stdout=subprocess.PIPE, text=True)
        while "21997" not in (line := self.server.stdout.readline()):
            if not line:
                sys.exit("irtt's server ended before it listened")
        self.client = start(
            ["irtt", "client", "-Q", "-i", "10ms", "-d", "5s", "-o", "-", f"{LOCAL}:21997"], stdout=subprocess.PIPE, text=True
        )

    def stop(self):
        report = json.loads(self.client.communicate()[0])
        self.server.terminate(), self.server.wait()
        trips = report["round_trips"]
        sent = [trip["timestamps"]["client"]["send"]["monotonic"] for trip in trips]
        rtts = [trip["delay"]["rtt"] for trip in trips if "rtt" in trip["delay"]]
        return [b - a for a, b in zip(sent, sent[1:])], rtts, report["stats"]["timer_misses"]


def workload(server, port):
    before = cpu(server.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["ab", "-q", "-n", str(requests), "-c", "4", f"http://{LOCAL}:{port}/"], stdout=subprocess.DEVNULL, check=True)
    after = cpu(server.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    client = sum(getattr(after[1], f) - getattr(before[1], f) for f in ("ru_utime", "ru_stime"))
    return (after[0] - before[0] + client) / requests * 1e6


def describe(steps, rtts, missed):
    errors = sorted(abs(step - 10_000_000) / 1e3 for step in steps)
    rtts = sorted(rtts)
    at = lambda q: errors[min(len(errors) - 1, int(q * len(errors)))]
    return (f"{len(errors)} intervals, off by {statistics.fmean(errors):.1f} µs on average, p50 {at(.5):.1f}, p99 {at(.99):.1f}, "
            f"max {errors[-1]:.0f}; {missed} missed; RTT min {rtts[0]/1e3:.1f}, p50 {rtts[len(rtts)//2]/1e3:.1f} µs")


port = 20997
server = start([vptest, "serve-http", "--listen", f"{LOCAL}:{port}"], stdout=subprocess.PIPE, text=True)
server.stdout.readline()
try:
    costs = {"none": [], "vptest": []}
    own, loaded = {"vptest": []}, {}
    workload(server, port)
    for _ in range(rounds):
        costs["none"].append(workload(server, port))
        for tool in (Vptest(),):
            tool.start()
            costs[tool.name].append(workload(server, port))
            loaded[tool.name] = describe(*tool.stop())
            own[tool.name].append(tool.used)
    base = statistics.median(costs["none"])
    for name, values in costs.items():
        of_tool = f"; the tool itself {statistics.median(own[name]) * 100:.2f} % of a CPU" if name in own else ""
        print(f"{name}: {statistics.median(values):.2f} µs a request ({min(values):.2f}–{max(values):.2f}), ratio "
              f"{statistics.median(values) / base:.3f}{of_tool}")
    for name, text in loaded.items():
        print(f"beside ab, {name}: {text}")
    for tool in (Vptest(), Irtt()):
        tool.start()
        time.sleep(5)
        print(f"without, {tool.name}: {describe(*tool.stop())}")
finally:
    for child in children:
        child.kill()
        child.wait()
