//! A cluster on the loopback interface: munged, slurmctld and two slurmds, each with a host name of its own.

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::super::campaign::{Campaign, Said, said};
use super::super::need;
use super::super::qemu::wait_until;

/// See the module. All of it is in a PID namespace that ends with it.
pub(super) struct Lab {
    directory: tempfile::TempDir,
    cluster: Child,
}

pub(super) const NODES: [&str; 2] = ["n1", "n2"];

/// What a lab needs of this machine.
pub(super) fn tools() -> bool {
    need::root()
        && ["slurmctld", "slurmd", "munged", "sbatch", "srun", "unshare", "setpriv"]
            .iter()
            .all(|name| need::program(name))
}

/// A port that nobody has now.
fn free_ports() -> [u16; 3] {
    let sockets = [(); 3].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

impl Lab {
    /// Nodes see all files of this machine.
    pub(super) fn new() -> Self {
        Self::start(None)
    }

    /// Nodes see something else in place of this directory, each its own.
    pub(super) fn without(hidden: &Path) -> Self {
        Self::start(Some(hidden))
    }

    fn start(hidden: Option<&Path>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        std::fs::set_permissions(place, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(place.join("state")).unwrap();
        let key: Vec<u8> = (0..128).map(|_| rand_byte()).collect();
        std::fs::write(place.join("munge.key"), key).unwrap();
        std::fs::set_permissions(place.join("munge.key"), PermissionsExt::from_mode(0o400)).unwrap();
        std::fs::write(place.join("slurm.conf"), config(place, free_ports())).unwrap();
        let cover = hidden.map_or_else(String::new, |path| format!("mount -t tmpfs none '{}' && ", path.display()));
        let nodes: String = NODES
            .map(|node| {
                format!(
                    "unshare --mount --uts sh -c \"{cover}hostname {node} && exec slurmd -D -N {node}\" 2> $D/{node}.err &\n"
                )
            })
            .concat();
        let script = format!(
            "D='{}'; export SLURM_CONF=$D/slurm.conf PATH=$PATH:/usr/sbin:/sbin; mount -t proc none /proc || exit 1\n\
             munged --foreground --force --key-file=$D/munge.key --socket=$D/munge.sock --pid-file=$D/munge.pid \
             --log-file=$D/munge.log --seed-file=$D/munge.seed --num-threads=2 2> $D/munge.err &\n\
             until [ -S $D/munge.sock ]; do sleep 0.02; done\n\
             slurmctld -D -i 2> $D/slurmctld.err &\n{nodes}wait\n",
            place.display()
        );
        // Killed with the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            &script,
        ]);
        let cluster = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lab = Self { directory, cluster };
        wait_until("that both nodes are idle", || {
            let nodes = lab.slurm(&["sinfo", "--noheader", "--format=%T %D"]);
            nodes.code == Some(0) && nodes.out.trim() == "idle 2"
        });
        lab
    }

    pub(super) fn config(&self) -> PathBuf {
        self.directory.path().join("slurm.conf")
    }

    /// One of Slurm's programs.
    pub(super) fn slurm(&self, words: &[&str]) -> Said {
        let mut command = Command::new(words[0]);
        said(command.args(&words[1..]).env("SLURM_CONF", self.config()).current_dir("/").output().unwrap())
    }

    /// As [`Self::slurm`], and it must do it.
    pub(super) fn expect(&self, words: &[&str]) -> String {
        let said = self.slurm(words);
        assert_eq!(said.code, Some(0), "{words:?}: {}{}", said.out, said.err);
        said.out
    }

    /// vptest, with this cluster and a home in the campaign's directory.
    pub(super) fn command(&self, campaign: &Campaign, words: &[&str]) -> Command {
        let mut command = campaign.command(words);
        command.env("SLURM_CONF", self.config()).env("HOME", campaign.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(super) fn vptest(&self, campaign: &Campaign, code: i32, words: &[&str]) -> Said {
        let said = said(self.command(campaign, words).output().unwrap());
        assert_eq!(said.code, Some(code), "{}{}{:?}\n{}", said.out, said.err, campaign.outcomes(), self.queue());
        said
    }

    /// What squeue says of everything: array, element, state, name.
    pub(super) fn queue(&self) -> String {
        self.expect(&["squeue", "--noheader", "--states=all", "--format=%F|%K|%T|%j|%N|%r"])
    }

    /// Jobs of campaigns that are not over.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let is_over =
            |line: &&str| line.contains("|COMPLETED|") || line.contains("|CANCELLED|") || line.contains("|FAILED|");
        let queue = self.queue();
        queue.lines().filter(|line| line.contains("|vptest-") && !is_over(line)).map(str::to_owned).collect()
    }

    /// Numbers of the arrays that there were.
    pub(super) fn arrays(&self) -> std::collections::BTreeSet<String> {
        let queue = self.queue();
        let mine = queue.lines().filter(|line| line.contains("|vptest-"));
        mine.map(|line| line.split('|').next().unwrap().to_owned()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The namespace goes with it, which is over when nobody has the other end of the pipe any more.
        let _ = self.cluster.kill();
        let _ = self.cluster.wait();
        if let Some(mut pipe) = self.cluster.stdout.take() {
            let _ = pipe.read_to_end(&mut Vec::new());
        }
    }
}

fn rand_byte() -> u8 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let hash = std::collections::hash_map::RandomState::new().build_hasher().finish();
    hash.to_le_bytes()[0]
}

fn config(place: &Path, [controller, first, second]: [u16; 3]) -> String {
    let place = place.display();
    let ports = [first, second];
    let nodes: String = NODES
        .iter()
        .zip(ports)
        .map(|(node, port)| {
            format!("NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=100\n")
        })
        .collect();
    format!(
        "ClusterName=lab\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort={controller}\nSlurmUser=root\nSlurmdUser=root\n\
         AuthType=auth/munge\nAuthInfo=socket={place}/munge.sock\nCredType=cred/munge\nStateSaveLocation={place}/state\n\
         SlurmdSpoolDir={place}/%n\nSlurmctldPidFile={place}/slurmctld.pid\nSlurmdPidFile={place}/%n.pid\n\
         SlurmctldLogFile={place}/slurmctld.log\nSlurmdLogFile={place}/%n.log\nProctrackType=proctrack/linuxproc\n\
         TaskPlugin=task/none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nSchedulerType=sched/builtin\n\
         SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0\nMpiDefault=none\n\
         SwitchType=switch/none\nJobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\n\
         ReturnToService=2\nSlurmdTimeout=10\nSlurmctldTimeout=10\nKillWait=10\nMinJobAge=300\nInactiveLimit=0\n\
         {nodes}PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
    )
}
