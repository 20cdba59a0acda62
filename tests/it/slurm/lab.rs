//! A cluster on the loopback interface: munged, slurmctld and two slurmds, each with a host name of its own; where it keeps
//! accounts, slurmdbd and a MariaDB that listens to nobody else, too.

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
    /// Where its memory is counted.
    cgroup: Option<PathBuf>,
}

/// How a cluster differs from the usual one, whose nodes see all files of this machine.
#[derive(Clone, Copy, Default)]
struct Kind<'a> {
    /// Nodes see something else in place of this directory.
    hidden: Option<&'a Path>,
    /// It keeps accounts.
    accounts: bool,
    /// Elements have no more memory than their nodes.
    memory: bool,
}

pub(super) const NODES: [&str; 2] = ["n1", "n2"];

/// What a lab needs of this machine.
pub(super) fn tools() -> bool {
    need::root()
        && ["slurmctld", "slurmd", "munged", "sbatch", "srun", "unshare", "setpriv"]
            .iter()
            .all(|name| need::program(name))
}

/// What one needs that keeps accounts.
pub(super) fn accounting_tools() -> bool {
    tools() && ["slurmdbd", "mariadbd", "sacct"].iter().all(|name| need::program(name))
}

/// What one needs that limits memory: cgroups of version 1, which only some hosts have.
pub(super) fn memory_tools() -> bool {
    tools() && need::need("cgroup1-memory", Path::new(MEMORY).join("tasks").exists())
}

/// Where the kernel counts memory.
const MEMORY: &str = "/sys/fs/cgroup/memory";

/// A port that nobody has now.
fn free_ports() -> [u16; 4] {
    let sockets = [(); 4].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

impl Lab {
    /// Nodes see all files of this machine.
    pub(super) fn new() -> Self {
        Self::start(Kind::default())
    }

    /// It keeps accounts.
    pub(super) fn with_accounts() -> Self {
        Self::start(Kind { accounts: true, ..Kind::default() })
    }

    /// Elements have no more memory than their nodes.
    pub(super) fn with_limited_memory() -> Self {
        Self::start(Kind { memory: true, ..Kind::default() })
    }

    /// Nodes see something else in place of this directory, each its own.
    pub(super) fn without(hidden: &Path) -> Self {
        Self::start(Kind { hidden: Some(hidden), ..Kind::default() })
    }

    fn start(kind: Kind<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        std::fs::set_permissions(place, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(place.join("state")).unwrap();
        let key: Vec<u8> = (0..128).map(|_| rand_byte()).collect();
        std::fs::write(place.join("munge.key"), key).unwrap();
        std::fs::set_permissions(place.join("munge.key"), PermissionsExt::from_mode(0o400)).unwrap();
        std::fs::write(place.join("slurm.conf"), config(place, free_ports(), kind)).unwrap();
        let cover =
            kind.hidden.map_or_else(String::new, |path| format!("mount -t tmpfs none '{}' && ", path.display()));
        let nodes: String = NODES
            .map(|node| {
                format!(
                    "unshare --mount --uts sh -c \"{cover}hostname {node} && exec slurmd -D -N {node}\" 2> $D/{node}.err &\n"
                )
            })
            .concat();
        let cgroup = kind.memory.then(|| Path::new(MEMORY).join(place.file_name().unwrap()));
        let accounts = if kind.accounts { ACCOUNTS } else { "" };
        let script = format!(
            "D='{}'; export SLURM_CONF=$D/slurm.conf PATH=$PATH:/usr/sbin:/sbin; mount -t proc none /proc || exit 1\n\
             {}munged --foreground --force --key-file=$D/munge.key --socket=$D/munge.sock --pid-file=$D/munge.pid \
             --log-file=$D/munge.log --seed-file=$D/munge.seed --num-threads=2 2> $D/munge.err &\n\
             until [ -S $D/munge.sock ]; do sleep 0.02; done\n\
             {accounts}\
             (slurmctld -D -i 2> $D/slurmctld.err; [ ! -e $D/forget ] || exec slurmctld -D -c 2>> $D/slurmctld.err) &\n\
             {nodes}wait\n",
            place.display(),
            if kind.memory { "mount -t cgroup -o memory none $D/cgroup/memory || exit 1\n" } else { "" }
        );
        let enter = match &cgroup {
            Some(cgroup) => {
                std::fs::create_dir_all(place.join("cgroup/memory")).unwrap();
                std::fs::create_dir(cgroup).unwrap();
                let config = format!(
                    "CgroupMountpoint={}/cgroup\nCgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n",
                    place.display()
                );
                std::fs::write(place.join("cgroup.conf"), config).unwrap();
                format!("echo $$ > {}/cgroup.procs && exec unshare --cgroup ", cgroup.display())
            }
            None => "exec unshare ".to_owned(),
        };
        // Killed with the test, however that ends.
        let mut command = Command::new("setpriv");
        let enter = format!("{enter}--mount --pid --fork --kill-child sh -c \"$0\"");
        command.args(["--pdeathsig", "KILL", "sh", "-c", &enter, &script]);
        let cluster = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lab = Self { directory, cluster, cgroup };
        lab.await_nodes();
        lab
    }

    fn await_nodes(&self) {
        wait_until("that both nodes are idle", || {
            let nodes = self.slurm(&["sinfo", "--noheader", "--format=%T %D"]);
            nodes.code == Some(0) && nodes.out.trim() == "idle 2"
        });
    }

    /// The queue forgets what was in it, as it does some minutes after a job's end.
    pub(super) fn forget(&self) {
        std::fs::write(self.directory.path().join("forget"), "").unwrap();
        self.expect(&["scontrol", "shutdown", "slurmctld"]);
        wait_until("a controller with an empty queue", || {
            let queue = self.slurm(&["squeue", "--noheader", "--states=all"]);
            queue.code == Some(0) && queue.out.is_empty()
        });
        self.await_nodes();
    }

    /// What the accounts say of an array, by element.
    pub(super) fn accounts(&self, job: &str) -> String {
        self.expect(&["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", "--jobs", job])
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
        if let Some(cgroup) = &self.cgroup {
            remove_cgroup(cgroup);
        }
    }
}

/// Its processes are gone, or about to be.
fn remove_cgroup(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path());
    }
    let mut result = Ok(());
    for _ in 0..3000 {
        result = std::fs::remove_dir(directory);
        if !result.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let is_gone = result.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    if !is_gone && !std::thread::panicking() {
        result.unwrap();
    }
}

/// A database without users that nobody but the cluster reaches, in memory as nothing of it is to last, and what keeps accounts in
/// it.
const ACCOUNTS: &str = r#"mkdir $D/db; mount -t tmpfs none $D/db || exit 1; export MYSQL_UNIX_PORT=$D/sql.sock
for f in /usr/share/mysql/mysql_system_tables.sql /usr/share/mariadb/mariadb_system_tables.sql; do [ ! -e $f ] || tables=$f; done
sql="mariadbd --no-defaults --user=root --datadir=$D/db --skip-grant-tables --innodb-buffer-pool-size=8M --innodb-log-file-size=8M"
{ echo 'create database mysql;'; echo 'use mysql;'; cat $tables; } | $sql --bootstrap 2> $D/bootstrap.err
$sql --skip-networking --socket=$D/sql.sock --pid-file=$D/sql.pid 2> $D/sql.err &
until [ -S $D/sql.sock ]; do sleep 0.02; done
slurmdbd -D 2> $D/slurmdbd.err &
until grep -q 'version .* started' $D/slurmdbd.err; do sleep 0.02; done
"#;

fn rand_byte() -> u8 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let hash = std::collections::hash_map::RandomState::new().build_hasher().finish();
    hash.to_le_bytes()[0]
}

fn config(place: &Path, [controller, first, second, accounts]: [u16; 4], kind: Kind<'_>) -> String {
    let storage = if kind.accounts {
        write_accounts_config(place, accounts);
        format!(
            "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n\
             AccountingStoragePort={accounts}\nAccountingStoragePass={}/munge.sock\n",
            place.display()
        )
    } else {
        "AccountingStorageType=accounting_storage/none\n".to_owned()
    };
    let (task, select, memory) = if kind.memory { ("cgroup", "CR_Core_Memory", 300) } else { ("none", "CR_Core", 100) };
    let place = place.display();
    let ports = [first, second];
    let nodes: String = NODES
        .iter()
        .zip(ports)
        .map(|(node, port)| {
            format!("NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory={memory}\n")
        })
        .collect();
    format!(
        "ClusterName=lab\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort={controller}\nSlurmUser=root\nSlurmdUser=root\n\
         AuthType=auth/munge\nAuthInfo=socket={place}/munge.sock\nCredType=cred/munge\nStateSaveLocation={place}/state\n\
         SlurmdSpoolDir={place}/%n\nSlurmctldPidFile={place}/slurmctld.pid\nSlurmdPidFile={place}/%n.pid\n\
         SlurmctldLogFile={place}/slurmctld.log\nSlurmdLogFile={place}/%n.log\nProctrackType=proctrack/linuxproc\n\
         TaskPlugin=task/{task}\nSelectType=select/cons_tres\nSelectTypeParameters={select}\nSchedulerType=sched/builtin\n\
         SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0\nMpiDefault=none\n\
         SwitchType=switch/none\nJobAcctGatherType=jobacct_gather/none\n{storage}\
         ReturnToService=2\nSlurmdTimeout=10\nSlurmctldTimeout=10\nKillWait=10\nMinJobAge=300\nInactiveLimit=0\n\
         {nodes}PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
    )
}

fn write_accounts_config(place: &Path, port: u16) {
    let path = place.join("slurmdbd.conf");
    let place = place.display();
    let text = format!(
        "AuthType=auth/munge\nAuthInfo=socket={place}/munge.sock\nDbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={port}\n\
         SlurmUser=root\nStorageType=accounting_storage/mysql\nStorageUser=root\nStorageHost=localhost\nStorageLoc=acct\n\
         PidFile={place}/slurmdbd.pid\n"
    );
    std::fs::write(&path, text).unwrap();
    // slurmdbd reads no other.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
}
