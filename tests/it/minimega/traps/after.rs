//! What is left after `kill -9`, `quit`, `nuke`, `-force` and `-recover`.

use vptest::testbed::minimega::journal;
use vptest::testbed::minimega::leftovers::{self, Kept};
use vptest::testbed::minimega::{Daemon, Limits};

use super::super::Process;
use super::super::testbed::{Campaign, Killed, held, machine_of, noted};

/// A campaign with a namespace in a minimega, whose machine 7 has a process of its own.
struct Past {
    double: Process,
    campaign: Campaign,
    machine: Killed,
    name: String,
    base: std::path::PathBuf,
}

impl Past {
    async fn new() -> Self {
        let (double, campaign) = (Process::start("").await, Campaign::new());
        let daemon = Daemon::open(&double.place.path().join("minimega"), Limits::default()).await.unwrap();
        let (base, files) = (daemon.base.clone(), double.place.path().join("files"));
        std::fs::create_dir(base.join("7")).unwrap();
        let shell = ["-c", "sleep 1000; :", "qemu", &format!("{}/7/qmp", base.display())];
        let mut command = std::process::Command::new("sh");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let machine = Killed(command.args(shell).spawn().unwrap());
        let mut journal = noted(&daemon, &campaign).await;
        journal.entry.machines = vec![machine_of(7, &machine.0)];
        journal.keep().unwrap();
        let name = journal.entry.namespace.clone();
        std::fs::create_dir_all(files.join(&name)).unwrap();
        Self { double, campaign, machine, name, base }
    }

    async fn daemon(&self) -> std::sync::Arc<Daemon> {
        Daemon::open(&self.double.place.path().join("minimega"), Limits::default()).await.unwrap()
    }

    /// Removes what is left; nothing may stay, and nothing be removed a second time.
    async fn cleaned(&self) -> Vec<String> {
        held(&self.campaign, 0).await;
        let done = leftovers::clean(self.campaign.path(), Kept::Goes).await.unwrap();
        assert_eq!(done.left, Vec::<String>::new());
        assert!(journal::stale(self.campaign.path()).unwrap().entries.is_empty());
        let again = leftovers::clean(self.campaign.path(), Kept::Goes).await.unwrap();
        assert_eq!(again, leftovers::Removed::default());
        done.removed
    }
}

/// `quit` ends the machines and leaves files; `nuke` leaves nothing, not even the directory of the socket.
#[tokio::test]
async fn after_quit_and_nuke_the_journal_is_worked_off() {
    for nuked in [false, true] {
        let mut past = Past::new().await;
        past.double.end();
        past.machine.0.kill().unwrap();
        past.machine.0.wait().unwrap();
        if nuked {
            for entry in std::fs::read_dir(&past.base).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
            }
        } else {
            std::fs::remove_dir_all(past.base.join("7")).unwrap();
            std::fs::remove_file(past.double.place.path().join("minimega")).unwrap();
        }
        let removed = past.cleaned().await;
        let files = past.double.place.path().join("files").join(&past.name);
        assert_eq!(removed.iter().any(|line| *line == files.display().to_string()), !nuked, "{removed:?}");
        assert!(!files.exists());
    }
}

/// `minimega -force`: numbers of machines begin anew, so that the directory 7 is a new machine's now.
#[tokio::test]
async fn a_minimega_that_has_come_since_keeps_what_may_be_its_own() {
    let mut past = Past::new().await;
    past.double.again().await;
    past.daemon().await.namespace("exp1").unwrap().run(&["echo", "a"]).await.unwrap();
    let removed = past.cleaned().await;
    assert!(removed.iter().any(|line| line.starts_with("machine 7 of ")), "{removed:?}");
    assert!(past.machine.0.wait().unwrap().code().is_none(), "the old machine is killed");
    assert!(past.base.join("7").is_dir(), "the new machine's directory stays");
    assert!(past.daemon().await.namespaces().await.unwrap().contains(&"exp1".to_owned()));
}

/// `minimega -recover`: the namespace and its machines are there again, in another process.
#[tokio::test]
async fn a_minimega_that_has_recovered_its_machines_removes_them() {
    let mut past = Past::new().await;
    past.double.again().await;
    past.daemon().await.namespace(&past.name).unwrap().run(&["echo", "a"]).await.unwrap();
    let removed = past.cleaned().await;
    assert!(removed.contains(&format!("namespace {} of minimega", past.name)), "{removed:?}");
    assert!(past.machine.0.wait().unwrap().code().is_none(), "what it has not ended is killed");
    assert!(!past.daemon().await.namespaces().await.unwrap().contains(&past.name));
}
