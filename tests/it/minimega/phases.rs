//! Commands and files for nodes. What clients are told to run really runs, on this host.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vptest::testbed::minimega::cc::{Channel, Member, MinimegaHead, Outcome, Phase, Sent, Step, StepStatus, Timing};
use vptest::testbed::minimega::{MinimegaError, Namespace, PhaseFailure};

use super::double::{Double, Traps, What};
use super::{guest, open, text};

const TIMING: Timing = Timing {
    poll: Duration::from_millis(5),
    look: Duration::from_millis(50),
    settle: Duration::from_millis(400),
    budget: Duration::from_secs(20),
    overhead: Duration::from_secs(60),
};
const LONG: Duration = Duration::from_secs(30);

pub(super) struct Lab {
    pub(super) double: Double,
    pub(super) namespace: Arc<Namespace>,
    channel: Channel,
    members: Vec<Member>,
    place: tempfile::TempDir,
}

impl Lab {
    async fn with(traps: Traps, timing: Timing) -> Self {
        let double = Double::start(traps);
        let namespace = Arc::new(open(&double).await.fresh_namespace(&super::owner()).await.unwrap());
        let members: Vec<Member> = ["client1", "server1"]
            .iter()
            .map(|name| {
                let uuid = format!("uuid-{name}");
                let files = guest::report(&double.shared, namespace.name(), name, &uuid);
                Member { node: (*name).to_owned(), uuid, files: files.to_string_lossy().into_owned() }
            })
            .collect();
        let head = MinimegaHead::new(Arc::clone(&namespace));
        let channel = Channel::new(Arc::new(head), timing);
        Self { double, namespace, channel, members, place: tempfile::tempdir().unwrap() }
    }

    pub(super) async fn new(traps: Traps) -> Self {
        Self::with(traps, TIMING).await
    }

    fn path(&self, name: &str) -> String {
        self.place.path().join(name).to_string_lossy().into_owned()
    }

    /// The client alone does something.
    pub(super) async fn run(&self, phase: Phase) -> Result<Outcome, MinimegaError> {
        self.run_at(0, phase).await
    }

    /// The client (0) or the server alone does something.
    pub(super) async fn run_at(&self, which: usize, phase: Phase) -> Result<Outcome, MinimegaError> {
        let jobs = [(self.members[which].clone(), phase)];
        self.channel.run(&jobs, self.place.path()).await.map(|mut outcomes| outcomes.remove(0))
    }

    async fn failure(&self, phase: Phase) -> PhaseFailure {
        match self.run(phase).await.unwrap_err() {
            MinimegaError::Phase { node, failure } => {
                assert_eq!(node, "client1");
                failure
            }
            other => panic!("{other}"),
        }
    }

    /// The client follows the numbers that begin anew.
    pub(super) fn restart_numbers(&self) {
        guest::reconnect(&self.double.shared, self.namespace.name(), "uuid-client1");
    }

    fn client_goes(&self) {
        self.double.state().namespaces.get_mut(self.namespace.name()).unwrap().clients.remove("uuid-client1");
    }
}

pub(super) fn steps(all: &[&[&str]]) -> Phase {
    Phase { steps: all.iter().map(|argv| Step::of(argv.to_vec(), LONG)).collect(), ..Phase::default() }
}

pub(super) fn sh(script: &str) -> Phase {
    steps(&[&["sh", "-c", script]])
}

fn sent(path: String, content: &[u8]) -> Sent {
    Sent { path, mode: 0o755, content: content.to_vec() }
}

#[tokio::test]
async fn a_phase_of_all_nodes_is_one_round_trip() {
    let lab = Lab::new(Traps::default()).await;
    lab.channel.await_clients(&lab.members, LONG).await.unwrap();
    let phase = |word: &str| steps(&[&["echo", word], &["sh", "-c", "echo e >&2; exit 3"], &["cat", "/dev/null"]]);
    let jobs: Vec<_> = lab.members.iter().map(|member| (member.clone(), phase(&member.node))).collect();
    let outcomes = lab.channel.run(&jobs, lab.place.path()).await.unwrap();
    for (outcome, member) in outcomes.iter().zip(&lab.members) {
        let [first, second, third] = outcome.report.steps.as_slice() else { panic!("{outcome:?}") };
        assert_eq!(first.stdout, format!("{}\n", member.node).as_bytes());
        assert_eq!((second.status, second.stderr.as_slice()), (Some(StepStatus::Exit(3)), &b"e\n"[..]));
        assert_eq!((third.status, third.stdout_bytes), (Some(StepStatus::Exit(0)), 0));
    }
    assert_eq!(lab.channel.round_trips(), 1);
    // Nothing of it stays on this host.
    let left: Vec<_> =
        std::fs::read_dir(lab.namespace.files()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["miniccc_responses"]);
}

/// No word goes through minimega's lexer, its preprocessor or a shell that was not asked for, and bytes stay bytes.
#[tokio::test]
async fn words_and_bytes_arrive_as_they_are() {
    let lab = Lab::new(Traps::default()).await;
    let words = ["$HOME", "`id`", "a'b\"c\\", "http://10.0.0.1/x", "", "*", "line\nline", "stdout=foo"];
    let argv: Vec<&str> = ["printf", "%s|"].iter().chain(&words).copied().collect();
    let outcome = lab.run(steps(&[&argv, &["printf", "\\377\\000\\376"]])).await.unwrap();
    let expected: String = words.iter().map(|word| format!("{word}|")).collect();
    assert_eq!(outcome.report.steps[0].stdout, expected.as_bytes());
    assert_eq!(outcome.report.steps[1].stdout, [0xff, 0, 0xfe]);
}

/// The counter of responses is raised before the files are there, and these grow.
#[tokio::test]
async fn a_result_counts_only_when_it_is_whole() {
    let late = Duration::from_millis(250);
    let lab = Lab::new(Traps { late, ..Traps::default() }).await;
    let outcome = lab.run(sh("seq 1 5000")).await.unwrap();
    assert_eq!(outcome.report.steps[0].stdout_bytes, 23_893);
    assert!(outcome.report.steps[0].stdout.ends_with(b"\n5000\n"));
}

#[tokio::test]
async fn a_result_is_bounded_and_says_what_is_left_out() {
    let lab = Lab::new(Traps::default()).await;
    let mut phase = sh("head -c 100000 /dev/zero");
    phase.steps[0].shown = 10;
    let step = lab.run(phase).await.unwrap().report.steps.remove(0);
    assert_eq!((step.stdout.len(), step.stdout_bytes), (10, 100_000));
}

#[tokio::test]
async fn a_step_that_hangs_is_ended_and_what_follows_runs() {
    let lab = Lab::new(Traps::default()).await;
    let mut phase = steps(&[&["sleep", "1000"], &["echo", "next"], &["sh", "-c", "exit 124"], &["no-such-program"]]);
    phase.steps[0].limit = Duration::from_secs(1);
    let report = lab.run(phase).await.unwrap().report;
    let status: Vec<_> = report.steps.iter().map(|step| step.status.unwrap()).collect();
    use StepStatus::{Exit, TimedOut};
    assert_eq!(status, [TimedOut, Exit(0), Exit(124), Exit(127)]);
    assert_eq!(report.steps[1].stdout, b"next\n");
}

#[tokio::test]
async fn a_step_in_the_background_goes_on_and_its_output_is_brought_later() {
    let lab = Lab::new(Traps::default()).await;
    let (go, out) = (lab.path("go"), lab.path("out"));
    let mut phase = steps(&[
        &["sh", "-c", &format!("while ! [ -e {go} ]; do sleep 0.02; done; echo served >{out}")],
        &["echo", "up"],
    ]);
    phase.steps[0].background = true;
    let report = lab.run(phase).await.unwrap().report;
    assert_eq!(report.steps[0].status, None, "it still runs");
    assert_eq!(report.steps[1].stdout, b"up\n");
    let mut later = sh(&format!("touch {go}; while ! grep -q served {out}; do sleep 0.02; done"));
    later.fetch = vec![out.clone()];
    let files = lab.run(later).await.unwrap().files;
    assert_eq!(std::fs::read(&files[0]).unwrap(), b"served\n");
}

/// Has a script said that it does not run again?
fn refused(responses: &Path) -> bool {
    let commands = std::fs::read_dir(responses).into_iter().flatten().flatten();
    let said = commands.filter_map(|one| std::fs::read_to_string(one.path().join("uuid-client1/stdout")).ok());
    said.into_iter().any(|text| text.starts_with("vptest ") && text.ends_with(" replayed\n"))
}

/// A client that connects anew is given all commands again, those alone excepted that are run once.
#[tokio::test]
async fn nothing_is_run_twice() {
    for unknown in [vec![], vec!["cc exec-once"]] {
        let without = !unknown.is_empty();
        let lab = Lab::new(Traps { unknown, ..Traps::default() }).await;
        let marks = lab.path("marks");
        lab.run(sh(&format!("echo mark >>{marks}"))).await.unwrap();
        let responses = |lab: &Lab| -> usize {
            lab.double.state().namespaces[lab.namespace.name()].commands.iter().map(|command| command.responses).sum()
        };
        let before = responses(&lab);
        guest::reconnect(&lab.double.shared, lab.namespace.name(), "uuid-client1");
        // Sending is given again in any case.
        super::until("the commands again", || responses(&lab) > before + usize::from(without)).await;
        assert_eq!(std::fs::read_to_string(&marks).unwrap(), "mark\n");
        if without {
            super::until("the refusal", || refused(&lab.namespace.files().join("miniccc_responses"))).await;
        }
        // And a phase that follows has its own result.
        assert_eq!(lab.run(steps(&[&["echo", "new"]])).await.unwrap().report.steps[0].stdout, b"new\n");
    }
}

/// One that is posted before its client is there is never run.
#[tokio::test]
async fn nothing_is_posted_for_a_client_that_is_not_there() {
    let lab = Lab::new(Traps::default()).await;
    lab.client_goes();
    assert_eq!(lab.failure(steps(&[&["true"]])).await, PhaseFailure::Vanished);
    assert!(lab.double.state().namespaces[lab.namespace.name()].commands.is_empty());
    let error = lab.channel.await_clients(&lab.members, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(text(&error), "no miniccc has reported from client1 within 50ms");
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed_before_its_time_is_up() {
    let lab = Lab::new(Traps { hang: true, ..Traps::default() }).await;
    let begun = std::time::Instant::now();
    let (failure, ()) = tokio::join!(lab.failure(steps(&[&["true"]])), async {
        super::until("the phase", || !lab.double.state().namespaces[lab.namespace.name()].commands.is_empty()).await;
        lab.client_goes();
    });
    assert_eq!(failure, PhaseFailure::Vanished);
    assert!(begun.elapsed() < TIMING.budget);
}

/// Out of memory, or behind a command of somebody else's that hangs: it is listed, and nothing comes.
#[tokio::test]
async fn a_client_that_does_nothing_is_given_up() {
    let brief = Timing { budget: Duration::ZERO, overhead: Duration::from_secs(1), ..TIMING };
    let lab = Lab::with(Traps { hang: true, ..Traps::default() }, brief).await;
    let failure = lab.failure(Phase::default()).await;
    assert_eq!(failure, PhaseFailure::Silent { waited: Duration::from_secs(1) });
}

#[tokio::test]
async fn a_script_that_is_killed_is_no_result() {
    let lab = Lab::new(Traps::default()).await;
    // The parent of `timeout`, which is that of the step's shell.
    let failure = lab.failure(sh("kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)")).await;
    assert!(matches!(failure, PhaseFailure::Died { exit: -1 | 137, .. }), "{failure}");
}

#[tokio::test]
async fn files_arrive_or_their_absence_is_an_error() {
    let lab = Lab::new(Traps::default()).await;
    let (one, two) = (lab.path("new/one"), lab.path("two"));
    let mut phase = steps(&[&[&one]]);
    phase.send = vec![sent(one.clone(), b"#!/bin/sh\necho one\n"), sent(two.clone(), b"")];
    assert_eq!(lab.run(phase.clone()).await.unwrap().report.steps[0].stdout, b"one\n");
    assert_eq!(std::fs::read(&two).unwrap(), b"");
    // A second time, with other content: never overwritten under one name, so that every name is new.
    phase.send[0].content = b"#!/bin/sh\necho two\n".to_vec();
    assert_eq!(lab.run(phase.clone()).await.unwrap().report.steps[0].stdout, b"two\n");
    let posted: Vec<_> = lab.double.state().namespaces[lab.namespace.name()]
        .commands
        .iter()
        .filter_map(|command| if let What::Send(name) = &command.what { Some(name.clone()) } else { None })
        .collect();
    let distinct: std::collections::BTreeSet<_> = posted.iter().collect();
    assert_eq!((posted.len(), distinct.len()), (6, 6));
    phase.send[0].path = lab.path("three");
    lab.double.traps(|traps| traps.lose = Some(".0"));
    let failure = lab.failure(phase.clone()).await;
    assert_eq!(failure, PhaseFailure::NotSent { name: lab.path("three"), why: "it is missing".to_owned() });
    lab.double.traps(|traps| (traps.lose, traps.damage) = (None, Some(".0")));
    assert!(matches!(lab.failure(phase.clone()).await, PhaseFailure::NotSent { .. }));
    // What does not arrive may be the script itself.
    lab.double.traps(|traps| (traps.lose, traps.damage) = (Some(".sh"), None));
    assert!(matches!(lab.failure(phase).await, PhaseFailure::Died { exit: 2 | 127, .. }));
}

#[tokio::test]
async fn files_are_brought_whole_and_empty_ones_break_nothing() {
    let lab = Lab::new(Traps { late: Duration::from_millis(30), ..Traps::default() }).await;
    let (full, empty) = (lab.path("full"), lab.path("empty"));
    let mut phase = sh(&format!("head -c 300000 /dev/urandom >{full}; : >{empty}"));
    phase.fetch = vec![full.clone(), empty.clone()];
    let files = lab.run(phase).await.unwrap().files;
    assert_eq!(std::fs::read(&files[0]).unwrap(), std::fs::read(&full).unwrap());
    assert_eq!(std::fs::read(&files[1]).unwrap(), b"");
    assert!(files[0].starts_with(lab.place.path().join("client1")));
    // Receiving an empty file would have kept everything from arriving for good.
    let mut send = steps(&[&["true"]]);
    send.send = vec![sent(lab.path("after"), b"x")];
    lab.run(send).await.unwrap();
}

#[tokio::test]
async fn files_that_cannot_be_brought_are_an_error() {
    let lab = Lab::new(Traps::default()).await;
    let full = lab.path("full");
    std::fs::write(&full, b"content").unwrap();
    let fetch = |path: &str| Phase { fetch: vec![path.to_owned()], ..steps(&[&["true"]]) };
    let PhaseFailure::NotFetched(why) = lab.failure(fetch("/no/such")).await else { panic!() };
    assert!(why.starts_with("tar ended with 2"), "{why}");
    lab.double.traps(|traps| traps.damage_received = true);
    let PhaseFailure::NotFetched(why) = lab.failure(fetch(&full)).await else { panic!() };
    assert!(why.starts_with("they were packed with checksum"), "{why}");
    let lab = Lab::with(
        Traps { keep_received: true, ..Traps::default() },
        Timing { budget: Duration::from_secs(1), ..TIMING },
    )
    .await;
    let PhaseFailure::NotFetched(why) = lab.failure(fetch(&full)).await else { panic!() };
    assert!(why.starts_with("nothing of 10240 bytes came"), "{why}");
}

/// A guest writes its own results, and may write what it likes.
#[tokio::test]
async fn a_hostile_node_reaches_nothing_of_the_host() {
    let lab = Lab::new(Traps::default()).await;
    // A tar of its own, with a link and a name that leads elsewhere.
    let bin = lab.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let link = lab.path("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    let phase = Phase { fetch: vec![link], ..steps(&[&["true"]]) };
    let PhaseFailure::NotFetched(why) = lab.failure(phase).await else { panic!() };
    assert!(why.contains("is neither a file nor a directory"), "{why}");
    // A report of its own, with the right nonce: the script says it, in its arguments and in the name of its directory.
    let forge = |lines: &str| {
        let find = "n=$(tr '\\0' '\\n' </proc/$PPID/../$(ps -o ppid= -p $PPID | tr -d ' ')/cmdline | sed -n 's|.*/\\([0-9a-f]\\{16\\}\\)[.]sh$|\\1|p')";
        sh(&format!("{find}; {lines}"))
    };
    // Inside of a step's output it is output.
    let fake = "echo \"vptest $n report\"; echo 'step 0 0 0 0 0 0 0'; echo; echo; echo \"vptest $n end\"; exit 7";
    let step = lab.run(forge(fake)).await.unwrap().report.steps.remove(0);
    assert_eq!(step.status, Some(StepStatus::Exit(7)));
    let forged = String::from_utf8(step.stdout).unwrap();
    let nonce = forged.lines().next().and_then(|line| line.split(' ').nth(1)).unwrap().to_owned();
    assert!(nonce.len() == 16 && forged.ends_with(&format!("vptest {nonce} end\n")), "the nonce was found: {forged}");
}

#[tokio::test]
async fn what_cannot_be_posted_is_not() {
    let lab = Lab::new(Traps::default()).await;
    for phase in [steps(&[&[]]), steps(&[&["a\0b"]]), Phase { fetch: vec!["x".to_owned()], ..Phase::default() }] {
        assert!(matches!(lab.run(phase).await.unwrap_err(), MinimegaError::Unsendable { .. }));
    }
    assert_eq!(lab.channel.round_trips(), 0);
}
