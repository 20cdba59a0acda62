"""Nodes for benchmarks: namespaces with an sshd, a /run, a home and a name of their own each, so that nothing is waited for on a wire;
and a Slurm on the loopback interface. Needs root, OpenSSH, iproute2 and Slurm."""
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time

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


class Slurm:
    """munged, slurmctld and a slurmd for each node, all on this machine, with one CPU each."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.temporary = tempfile.TemporaryDirectory()
        self.directory = pathlib.Path(self.temporary.name)
        self.directory.chmod(0o755)
        self.environment = {**os.environ, "SLURM_CONF": str(self.directory / "slurm.conf"), "HOME": str(self.directory)}

    def __enter__(self):
        place = self.directory
        (place / "state").mkdir()
        (place / "munge.key").write_bytes(secrets.token_bytes(128))
        (place / "munge.key").chmod(0o400)
        (place / "slurm.conf").write_text(self._config())
        nodes = "".join(
            f"unshare --mount --uts sh -c 'hostname {node} && exec slurmd -D -N {node}' 2> $D/{node}.err &\n" for node in self.nodes
        )
        script = (
            f"D={place}; export SLURM_CONF=$D/slurm.conf PATH=$PATH:/usr/sbin:/sbin; mount -t proc none /proc\n"
            "munged --foreground --force --key-file=$D/munge.key --socket=$D/munge.sock --pid-file=$D/munge.pid "
            "--log-file=$D/munge.log --seed-file=$D/munge.seed 2> $D/munge.err &\n"
            f"until [ -S $D/munge.sock ]; do sleep 0.05; done\nslurmctld -D -i 2> $D/slurmctld.err &\n{nodes}wait\n"
        )
        argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
        self.cluster = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        ask = ["sinfo", "--noheader", "--format=%T %D"]
        for _ in range(600):
            said = subprocess.run(ask, env=self.environment, capture_output=True, text=True, check=False)
            if said.stdout.strip() == f"idle {len(self.nodes)}":
                return self
            time.sleep(0.1)
        self.__exit__()
        sys.exit("Slurm's nodes do not become idle")

    def __exit__(self, *_):
        self.cluster.kill()
        self.cluster.wait()
        self.temporary.cleanup()

    def _config(self):
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in ["controller", *self.nodes]]
        controller, *ports = [opened.getsockname()[1] for opened in sockets]
        for opened in sockets:
            opened.close()
        place = self.directory
        lines = [
            f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=100"
            for node, port in zip(self.nodes, ports)
        ]
        return (
            f"ClusterName=lab\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort={controller}\nSlurmUser=root\nSlurmdUser=root\n"
            f"AuthType=auth/munge\nAuthInfo=socket={place}/munge.sock\nCredType=cred/munge\nStateSaveLocation={place}/state\n"
            f"SlurmdSpoolDir={place}/%n\nSlurmctldPidFile={place}/slurmctld.pid\nSlurmdPidFile={place}/%n.pid\n"
            f"SlurmctldLogFile={place}/slurmctld.log\nSlurmdLogFile={place}/%n.log\nProctrackType=proctrack/linuxproc\n"
            "TaskPlugin=task/none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nSchedulerType=sched/builtin\n"
            "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0\nMpiDefault=none\n"
            "SwitchType=switch/none\nJobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\n"
            "ReturnToService=2\nMaxJobCount=100000\nMinJobAge=300\n"
            + "\n".join(lines)
            + "\nPartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        )
