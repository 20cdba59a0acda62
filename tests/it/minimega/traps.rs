//! Traps of minimega, rond and miniccc that no other test here is about; `mod.rs` lists all of them.

use std::os::unix::net::UnixListener;

use vptest::testbed::minimega::capture::{self, Point};
use vptest::testbed::minimega::cc::{Head as _, StepStatus};
use vptest::testbed::minimega::journal::{self, Noted};
use vptest::testbed::minimega::leftovers::{self, Kept};
use vptest::testbed::minimega::machine;
use vptest::testbed::minimega::rond::Rond;
use vptest::testbed::minimega::{Daemon, Limits, guest};
use vptest::units::Rate;

use super::double::{Double, Traps};
use super::machines::{disk, options, plan, points, running, traffic};
use super::phases::{Lab, sh, steps};
use super::testbed::{Campaign, Killed, noted, started};
use super::{Process, open, owner, text};

/// miniccc says -1 for a command that a signal ended and for one that could not be started.
#[tokio::test]
async fn a_step_that_a_signal_ended_is_told_from_one_that_could_not_start() {
    let lab = Lab::new(Traps::default()).await;
    let report = lab.run(steps(&[&["sh", "-c", "kill -9 $$"], &["/no/such"], &["/etc/passwd"]])).await.unwrap().report;
    let status: Vec<_> = report.steps.iter().map(|step| step.status.unwrap()).collect();
    assert_eq!(status, [137, 127, 126].map(StepStatus::Exit));
}

/// `clear cc` by somebody: numbers begin anew, and what was answered under them stays.
#[tokio::test]
async fn an_old_answer_under_a_number_that_begins_anew_is_not_taken() {
    let lab = Lab::new(Traps::default()).await;
    assert_eq!(lab.run(sh("echo old")).await.unwrap().report.steps[0].stdout, b"old\n");
    lab.namespace.run(&["clear", "cc"]).await.unwrap();
    lab.restart_numbers();
    assert_eq!(lab.run(sh("echo new")).await.unwrap().report.steps[0].stdout, b"new\n");
}

/// Each of these ends the daemon, breaks a client for good, leaves something behind or changes what belongs to others.
#[tokio::test]
async fn nothing_is_sent_that_is_known_to_break_things() {
    let lab = Lab::new(Traps::default()).await;
    lab.run(sh("echo a")).await.unwrap();
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let captures = capture::start(&namespace, &options(), points(&double)).await.unwrap();
    let last = traffic(&double, &namespace);
    captures.stop(last).await.unwrap();
    assert!(namespace.remove().await.is_empty());
    let rond = Double::rond(Traps::default());
    rond.node("p1", "uuid-1");
    Rond::open(&rond.socket(), Limits::default()).await.unwrap().post("uuid-1", &[]).await.unwrap();
    let heard = [lab.double.heard(), double.heard(), rond.heard()].concat();
    assert!(heard.len() > 30, "{heard:?}");
    for command in &heard {
        let words = command.split_whitespace().collect::<Vec<_>>();
        for bad in [
            "background-status",
            "capture pcap bridge",
            "cc responses",
            "cc mount",
            "checkpoint",
            "responses",
            "vm flush",
            "bridge",
            "nuke",
            "quit",
        ] {
            assert!(!format!(" {command} ").contains(&format!(" {bad} ")), "{command}");
        }
        assert!(!command.contains(" stdout="), "{command}");
        // Alone it would change the namespace of everybody.
        assert!(words.first() != Some(&"namespace") || words.len() != 2, "{command}");
    }
}

/// A machine whose directory another one has left ends at once, and its launch says nothing.
#[tokio::test]
async fn a_machine_that_has_quit_at_once_is_no_machine() {
    let double = Double::start(Traps::default());
    let namespace = open(&double).await.fresh_namespace(&owner()).await.unwrap();
    let row = r#"{"Resp":[{"Host":"vm","Response":"","Header":["id","name","state","uuid","tags","tap"],
        "Tabular":[["0","a","QUIT","u","{}","[]"]],"Error":"","Data":null}],"Rendered":"","More":false,"Status":false}"#;
    double.traps(|traps| traps.bytes_at = Some(("vm info", row.as_bytes().to_vec())));
    let error = machine::launch(&namespace, &[plan("a", disk())]).await.unwrap_err();
    assert_eq!(text(&error), "machine a: it is QUIT and not BUILDING");
}

/// A killed machine stays in the table of captures, and is stopped with the others.
#[tokio::test]
async fn a_capture_of_a_machine_that_has_gone_is_stopped_all_the_same() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let captures = capture::start(&namespace, &options(), points(&double)).await.unwrap();
    double.state().namespaces.get_mut(namespace.name()).unwrap().machines.retain(|machine| machine.name != "a");
    let last = traffic(&double, &namespace);
    assert_eq!(captures.stop(last).await.unwrap().len(), 2);
    assert_eq!(namespace.rows(&["capture"], &["path"]).await.unwrap(), []);
}

/// An existing file is cut to nothing by a capture without a word.
#[tokio::test]
async fn a_file_of_an_earlier_capture_does_not_pass_for_a_new_one() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let file = double.shared.directory.join("a.pcap");
    std::fs::write(&file, vec![7; 5000]).unwrap();
    let point = Point { machine: "a".to_owned(), card: 0, file };
    let captures = capture::start(&namespace, &options(), vec![point]).await.unwrap();
    let said = tokio::time::Instant::now() - capture::TAIL;
    traffic(&double, &namespace);
    assert_eq!(text(&captures.stop(said).await.unwrap_err()), "capture of a: it has seen no packet");
}

/// `qos add` that fails takes away the limit that was there, and an answer without an error is no limit yet.
#[tokio::test]
async fn a_limit_counts_only_when_it_is_in_the_table() {
    let double = Double::start(Traps::default());
    let namespace = running(&double).await;
    let rate = Rate::from_bits_per_second(8_000_000).unwrap();
    // A kernel without that queueing discipline.
    let no = br#"{"Resp":[{"Host":"vm","Response":"","Header":null,"Tabular":null,"Error":"Error: Specified qdisc kind is unknown.","Data":null}],"Rendered":"","More":false,"Status":false}"#;
    double.traps(|traps| traps.bytes_at = Some(("qos add", no.to_vec())));
    let error = guest::limit_rate(&namespace, "a", 0, rate).await.unwrap_err();
    assert!(text(&error).contains("qos add a 0 rate 8 mbit"), "{error}");
    let done = br#"{"Resp":[{"Host":"vm","Response":"","Header":null,"Tabular":null,"Error":"","Data":null}],"Rendered":"","More":false,"Status":false}"#;
    double.traps(|traps| traps.bytes_at = Some(("qos add", done.to_vec())));
    let error = guest::limit_rate(&namespace, "a", 0, rate).await.unwrap_err();
    assert_eq!(text(&error), "machine a: its qos is [] and not [0: rate 8mbit]");
}

/// `quit` of rond, and `kill -9` of either, leave the socket.
#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_told_as_such() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let minimega = Daemon::open(&path, Limits::default()).await.err().unwrap();
    let rond = Rond::open(&path, Limits::default()).await.err().unwrap();
    for error in [minimega, rond] {
        assert!(error.is_lost(), "{error:?}");
        assert!(text(&error).starts_with("cannot connect to the command socket "), "{error}");
    }
}

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
        let pid = i32::try_from(machine.0.id()).unwrap();
        journal.entry.machines =
            vec![Noted { id: 7, process: Some((pid, started(pid))), taps: vec![], container: false, cgroups: vec![] }];
        journal.keep().unwrap();
        let name = journal.entry.namespace.clone();
        std::fs::create_dir_all(files.join(&name)).unwrap();
        Self { double, campaign, machine, name, base }
    }

    /// Another minimega, at the same place.
    async fn another(&mut self) {
        std::fs::remove_file(self.double.place.path().join("minimega")).unwrap();
        self.double.child = Process::spawn(self.double.place.path(), "", &[]);
        let socket = self.double.place.path().join("minimega");
        super::until("that it listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    }

    async fn daemon(&self) -> std::sync::Arc<Daemon> {
        Daemon::open(&self.double.place.path().join("minimega"), Limits::default()).await.unwrap()
    }

    /// Removes what is left; nothing may stay, and nothing be removed a second time.
    async fn cleaned(&self) -> Vec<String> {
        super::testbed::held(&self.campaign, 0).await;
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
    past.double.end();
    past.another().await;
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
    past.double.end();
    past.another().await;
    past.daemon().await.namespace(&past.name).unwrap().run(&["echo", "a"]).await.unwrap();
    let removed = past.cleaned().await;
    assert!(removed.contains(&format!("namespace {} of minimega", past.name)), "{removed:?}");
    assert!(past.machine.0.wait().unwrap().code().is_none(), "what it has not ended is killed");
    assert!(!past.daemon().await.namespaces().await.unwrap().contains(&past.name));
}
