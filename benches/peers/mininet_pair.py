"""Builds and removes with Mininet what netns_setup.rs builds; prints the seconds that each took.

The bridge is made by commands in a node of its own: Mininet's switches want Open vSwitch or brctl, and live in the
host's namespace.
"""
import time

from mininet.link import TCLink
from mininet.net import Mininet

OFF = "ethtool -K %s gro off gso off tso off sg off"

begun = time.perf_counter()
net = Mininet(controller=None, link=TCLink)
client, server, bridge = (net.addHost(name, ip=ip) for name, ip in
                          (("c1", "10.1.0.1/24"), ("v1", "10.1.0.2/24"), ("b1", None)))
for node in (client, server):
    # params2 is the bridge's end, where the limit is.
    net.addLink(node, bridge, params2={"bw": 1000, "use_tbf": True, "latency_ms": 25})
net.build()
bridge.cmd("ip link add br1 type bridge && ip link set br1 up")
for port in bridge.intfNames():
    bridge.cmd("ip link set %s master br1 up" % port)
    bridge.cmd(OFF % port)
for node in (client, server):
    node.cmd(OFF % node.defaultIntf())
up = time.perf_counter()
net.stop()
print(up - begun, time.perf_counter() - up)
