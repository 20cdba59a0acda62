"""Nodes for benchmarks: namespaces with an sshd, a /run, a home and a name of their own each, so that nothing is waited for on a wire.
Needs root, OpenSSH and iproute2."""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

VPTEST = pathlib.Path(__file__).resolve().parent.parent / "target/release/vptest"


def sh(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


class Lab:
    """Control network 10.99.0.x, of which vptest is 1 and nodes are 2, 3, …; link of the experiment 10.98.0.x."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.tag = f"vpb{os.getpid()}"
        self.started = []
        self.temporary = tempfile.TemporaryDirectory()
        self.directory = pathlib.Path(self.temporary.name)
        self.directory.chmod(0o755)

    @property
    def inside(self):
        """Words before a command that is to reach the nodes."""
        return ["ip", "netns", "exec", f"{self.tag}-control"]

    @property
    def ssh(self):
        """Words of an ssh that gets to the nodes."""
        known = f"{self.directory}/known"
        return f"ssh -F none -i {self.directory}/user -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={known}"

    @property
    def hosts(self):
        return [f"root@10.99.0.{number}" for number in range(2, 2 + len(self.nodes))]

    def __enter__(self):
        # So that namespaces and servers are removed then, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / "user"))
            self._network()
            self._servers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.started:
            process.kill()
            process.wait()
        for name in ["control", "switch", *self.nodes]:
            subprocess.run(["ip", "netns", "del", f"{self.tag}-{name}"], check=False, stderr=subprocess.DEVNULL)
        self.temporary.cleanup()

    def _network(self):
        tag = self.tag
        for name in ["control", "switch", *self.nodes]:
            sh("ip", "netns", "add", f"{tag}-{name}")
            sh("ip", "-n", f"{tag}-{name}", "link", "set", "lo", "up")
        for name in ["control", "switch"]:
            sh("ip", "-n", f"{tag}-{name}", "link", "add", "bridge", "type", "bridge")
            sh("ip", "-n", f"{tag}-{name}", "link", "set", "bridge", "up")
        sh("ip", "-n", f"{tag}-control", "addr", "add", "10.99.0.1/24", "dev", "bridge")
        for number, node in enumerate(self.nodes, 2):
            for at, device, net in [("control", "ctl0", 99), ("switch", "exp0", 98)]:
                port, place, there = f"port{number}", f"{tag}-{at}", f"{tag}-{node}"
                sh("ip", "-n", place, "link", "add", port, "type", "veth", "peer", "name", device, "netns", there)
                sh("ip", "-n", place, "link", "set", port, "master", "bridge", "up")
                sh("ip", "-n", there, "addr", "add", f"10.{net}.0.{number}/24", "dev", device)
                sh("ip", "-n", there, "link", "set", device, "up")

    def _servers(self):
        for number, node in enumerate(self.nodes, 2):
            keys = self.directory / node
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys))
            config = self.directory / f"{node}.config"
            config.write_text(
                f"Port 22\nListenAddress 10.99.0.{number}\nHostKey {keys}\nAuthorizedKeysFile {self.directory}/user.pub\n"
                "StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nPidFile none\nUseDNS no\n"
            )
            boot = (
                f"hostname {node} && mount -t proc none /proc && mount -t tmpfs none /run && "
                "mount -t tmpfs none ~root && mkdir /run/sshd && "
                f'exec "$(command -v sshd)" -D -f {config}'
            )
            argv = ["ip", "netns", "exec", f"{self.tag}-{node}"]
            argv += ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", boot]
            self.started.append(subprocess.Popen(argv))
        for number in range(2, 2 + len(self.nodes)):
            wait = f"until (exec 3<>/dev/tcp/10.99.0.{number}/22) 2>/dev/null; do sleep 0.05; done"
            sh(*self.inside, "timeout", "30", "bash", "-c", wait)
