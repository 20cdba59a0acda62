//! The testbed `minimega-kvm` where something goes wrong: its failures are typed, and nothing of it stays.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::Duration;

use vptest::spec::{MinimegaSpec, TestbedSpec, Tuple};
use vptest::testbed::minimega::journal::{self, Journal, Noted};
use vptest::testbed::minimega::leftovers::{self, Kept, Removed};
use vptest::testbed::minimega::{Daemon, Limits, MinimegaKvm, Owner};
use vptest::testbed::{Notice, Request, Testbed as _, TestbedError};

use super::double::{Double, Traps};
use super::{Process, open, until};
use crate::campaign::VPTEST;
use crate::qemu;

/// A campaign's directory, with one for an iteration's files.
pub(super) struct Campaign(tempfile::TempDir);

impl Campaign {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("scratch")).unwrap();
        Self(directory)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn request(&self) -> Request {
        Request {
            tuple: Tuple::default(),
            number: 1,
            attempt: 1,
            scratch: self.path().join("scratch"),
            campaign: self.path().to_owned(),
            vptest: VPTEST.into(),
            programs: vec!["ab".to_owned()],
            notice: Notice::default(),
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        !self.path().join(".minimega").exists()
    }
}

fn testbed(socket: &Path, boot: Duration) -> MinimegaKvm {
    let socket = Some(socket.to_string_lossy().into_owned());
    let minimega = MinimegaSpec { socket, boot_timeout: Some(boot), ..MinimegaSpec::default() };
    MinimegaKvm::with_cache(&TestbedSpec { minimega, ..TestbedSpec::default() }, qemu::cache())
}

async fn failure(socket: &Path, campaign: &Campaign, boot: Duration) -> TestbedError {
    testbed(socket, boot).launch(&campaign.request()).await.err().expect("it cannot come up")
}

/// Has nothing but what was there before?
pub(super) fn is_empty(double: &Double) -> bool {
    double.state().namespaces.keys().all(|name| name == "minimega")
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_guest_that_cannot_be_launched_fails_with_minimegas_reason() {
    if !qemu::guests() {
        return;
    }
    let (double, campaign) = (Double::start(Traps { fail: Some("server1"), ..Traps::default() }), Campaign::new());
    let error = failure(&double.socket(), &campaign, LONG).await;
    assert!(matches!(error, TestbedError::Guest { .. }), "{error:?}");
    assert_eq!(error.to_string(), "server1: it is ERROR and not BUILDING: qemu did not start");
    assert!(is_empty(&double) && campaign.is_clean());
    let left: Vec<_> = std::fs::read_dir(double.shared.files()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_guest_whose_agent_does_not_answer_fails_in_time_with_its_state() {
    if !qemu::guests() {
        return;
    }
    let (double, campaign) = (Double::start(Traps::default()), Campaign::new());
    let error = failure(&double.socket(), &campaign, Duration::from_millis(200)).await;
    assert!(matches!(error, TestbedError::Guest { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("virtio-serial0") && text.contains("minimega says that it is RUNNING"), "{text}");
    assert!(is_empty(&double) && campaign.is_clean());
}

/// Ctrl-C, and a limit that is up, drop what is being done.
#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_is_given_up_is_taken_down() {
    if !qemu::guests() {
        return;
    }
    let (double, campaign) = (Double::start(Traps::default()), Campaign::new());
    let (testbed, request) = (testbed(&double.socket(), LONG), campaign.request());
    let running = || {
        let state = double.state();
        let mut machines = state.namespaces.values().flat_map(|namespace| &namespace.machines);
        machines.clone().count() == 2 && machines.all(|machine| machine.state == "RUNNING")
    };
    tokio::select! {
        up = testbed.launch(&request) => panic!("it came up without agents: {}", up.is_ok()),
        () = until("that the machines run", running) => {}
    }
    assert!(is_empty(&double) && campaign.is_clean());
}

#[tokio::test]
async fn a_minimega_that_crashes_during_the_launch_is_told_as_such() {
    if !qemu::guests() {
        return;
    }
    let campaign = Campaign::new();
    let double = Process::start("vm start server1").await;
    let error = failure(&double.place.path().join("minimega"), &campaign, LONG).await;
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("minimega at ") && text.contains(" has ended (process "), "{text}");
    let stale = journal::stale(campaign.path()).unwrap();
    assert!(campaign.is_clean(), "{stale:?}");
}

#[tokio::test]
async fn without_a_minimega_the_host_cannot_run_it() {
    let campaign = Campaign::new();
    let testbed = testbed(&campaign.path().join("none"), LONG);
    let error = testbed.preflight(&campaign.request()).await.unwrap_err();
    assert!(matches!(error, TestbedError::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().starts_with("no minimega can be used: cannot connect to the command socket "), "{error}");
    assert!(error.hint().unwrap().contains("minimega -nostdin"));
}

/// A namespace that is there, noted in the journal of a campaign.
pub(super) async fn noted(daemon: &std::sync::Arc<Daemon>, campaign: &Campaign) -> Journal {
    let namespace = daemon.fresh_namespace(&Owner::of(campaign.path())).await.unwrap();
    let journal = Journal::begin(campaign.path(), &namespace, &campaign.path().join("consoles")).unwrap();
    namespace.run(&["echo", "a"]).await.unwrap();
    journal
}

/// Waits until this many locks of a campaign's journals are held: a process that another test begins has those that this
/// process drops, until it executes its program. Looking must not lock them, or such a process would have that as well.
pub(super) async fn held(campaign: &Campaign, count: usize) {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(campaign.path().join(".minimega")).unwrap().flatten();
    let locks = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "lock"));
    let inodes: Vec<String> = locks.map(|entry| format!(":{} ", entry.metadata().unwrap().ino())).collect();
    let is_held = |inode: &&String| std::fs::read_to_string("/proc/locks").unwrap().contains(*inode);
    until("the end of locks", || inodes.iter().filter(is_held).count() == count).await;
}

#[tokio::test]
async fn clean_removes_what_dead_runs_of_the_campaign_have_left_and_nothing_else() {
    let double = Double::start(Traps::default());
    let daemon = open(&double).await;
    let (ours, theirs) = (Campaign::new(), Campaign::new());
    let mut names = BTreeMap::new();
    for (what, campaign) in [("dead", &ours), ("kept", &ours), ("alive", &ours), ("other", &theirs)] {
        let mut journal = noted(&daemon, campaign).await;
        names.insert(what, journal.entry.namespace.clone());
        match what {
            "kept" => journal.keep().unwrap(),
            // Held by a run that goes on.
            "alive" => std::mem::forget(journal),
            _ => {}
        }
    }
    // Somebody uses minimega by hand.
    daemon.namespace("exp1").unwrap().run(&["echo", "a"]).await.unwrap();
    let line = |what: &str| format!("namespace {} of minimega", names[what]);
    let removed = |what: &str| Removed { removed: vec![line(what)], left: vec![] };
    held(&ours, 1).await;
    assert_eq!(leftovers::clean(ours.path(), Kept::Stays).await.unwrap(), removed("dead"));
    held(&ours, 1).await;
    assert_eq!(leftovers::clean(ours.path(), Kept::Stays).await.unwrap(), Removed::default());
    held(&ours, 1).await;
    assert_eq!(leftovers::clean(ours.path(), Kept::Goes).await.unwrap(), removed("kept"));
    let left = daemon.namespaces().await.unwrap();
    for (name, stays) in [
        ("exp1", true),
        (&names["alive"], true),
        (&names["other"], true),
        (&names["dead"], false),
        (&names["kept"], false),
    ] {
        assert_eq!(left.iter().any(|one| one == name), stays, "{name} of {names:?}");
    }
    held(&theirs, 0).await;
    assert_eq!(journal::stale(theirs.path()).unwrap().entries.len(), 1);
}

/// A campaign's directory that was copied, or a journal that another user can write.
#[tokio::test]
async fn a_journal_of_elsewhere_removes_nothing() {
    let double = Double::start(Traps::default());
    let daemon = open(&double).await;
    let (ours, copy) = (Campaign::new(), Campaign::new());
    let journal = noted(&daemon, &ours).await;
    let name = journal.entry.namespace.clone();
    drop(journal);
    std::fs::rename(ours.path().join(".minimega"), copy.path().join(".minimega")).unwrap();
    held(&copy, 0).await;
    let done = leftovers::clean(copy.path(), Kept::Goes).await.unwrap();
    assert!(done.removed.is_empty() && done.left.len() == 1 && done.left[0].contains(&name), "{done:?}");
    assert!(daemon.namespaces().await.unwrap().contains(&name));
}

/// The machine of a minimega that is gone: its process is killed, and no other that has its number.
#[tokio::test]
async fn what_a_dead_minimega_has_left_is_removed_by_the_journal() {
    let double = Process::start("").await;
    let socket = double.place.path().join("minimega");
    let daemon = Daemon::open(&socket, Limits::default()).await.unwrap();
    let campaign = Campaign::new();
    let place = daemon.base.join("7");
    std::fs::create_dir(&place).unwrap();
    let start = |argument: String| {
        let shell = ["-c", "sleep 1000; :", "qemu", &argument];
        std::process::Command::new("sh").args(shell).process_group(0).spawn().unwrap()
    };
    let mut machine = Killed(start(format!("{}/qmp", place.display())));
    let mut bystander = Killed(start("elsewhere".to_owned()));
    // Its launch was never answered, so that nobody has noted it.
    let console = format!("file:{}/consoles/client1.console", campaign.path().display());
    let shell = ["-c", "sleep 1000; :", "qemu", &format!("unix:{}/9/qmp,server", daemon.base.display()), &console];
    let mut unnoted = Killed(std::process::Command::new("sh").args(shell).process_group(0).spawn().unwrap());
    for (child, id) in [(&machine.0, 7), (&bystander.0, 8)] {
        let mut journal = noted(&daemon, &campaign).await;
        journal.entry.machines = vec![machine_of(id, child)];
        journal.keep().unwrap();
    }
    drop(daemon);
    let mut double = double;
    double.end();
    held(&campaign, 0).await;
    let done = leftovers::clean(campaign.path(), Kept::Goes).await.unwrap();
    assert!(done.removed.iter().any(|line| line.starts_with("machine 7 of ")), "{done:?}");
    assert!(done.left.iter().any(|line| line.contains("another process")), "{done:?}");
    assert!(!place.exists() && machine.0.wait().unwrap().code().is_none());
    assert!(done.removed.iter().any(|line| line.starts_with("machine 9 of ")), "{done:?}");
    assert!(unnoted.0.wait().unwrap().code().is_none());
    assert!(bystander.0.try_wait().unwrap().is_none(), "it was not minimega's");
}

/// A process that ends with the test, and what it has started.
pub(super) struct Killed(pub(super) std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(-i32::try_from(self.0.id()).unwrap());
        let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// A machine as a journal has it, without taps.
pub(super) fn machine_of(id: u64, process: &std::process::Child) -> Noted {
    let pid = i32::try_from(process.id()).unwrap();
    let process = Some((pid, started(pid)));
    Noted { id, process, taps: vec![], links: BTreeMap::new(), container: false, cgroups: vec![] }
}

fn started(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    text.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap()
}
