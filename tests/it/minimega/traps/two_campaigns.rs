//! Captures by minimega through whole iterations, and of two campaigns in one minimega.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use vptest::spec::{GuestImage, MinimegaSpec, TapCapture, TestbedSpec};
use vptest::testbed::minimega::{Daemon, Limits, MinimegaKvm, Owner};
use vptest::testbed::{Testbed as _, TestbedError};

use super::super::double::Traps;
use super::super::own::{LONG, Lab};
use super::super::testbed::{Campaign as Directory, Killed, noted};
use super::super::{Process, double_container, open};
use crate::campaign::{Campaign, said};
use crate::need::{self, need};
use crate::qemu::{cache, databases, only};

/// A testbed whose captures minimega takes.
fn captured(lab: &Lab) -> MinimegaKvm {
    let image = Some(GuestImage { boot: lab.boot.clone(), reach: lab.by_cc() });
    let socket = Some(lab.double.socket().to_string_lossy().into_owned());
    let minimega = MinimegaSpec { socket, image, capture: TapCapture::Minimega, ..MinimegaSpec::default() };
    MinimegaKvm::new(&TestbedSpec { minimega, ..TestbedSpec::default() })
}

#[tokio::test]
async fn minimega_captures_for_one_campaign_at_a_time() {
    let (lab, other) = (Lab::new(Traps::default()), Directory::new());
    let (first, second) = (captured(&lab), captured(&lab));
    for _ in 0..2 {
        first.preflight(&lab.campaign.request()).await.unwrap();
    }
    let daemon = open(&lab.double).await;
    let name = daemon.fresh_namespace(&Owner::of(lab.campaign.path())).await.unwrap().name().to_owned();
    let prefix = name.rsplit_once('-').unwrap().0;
    let begin = format!(
        "minimega's captures are those of the campaign in {} (namespaces ",
        std::path::absolute(lab.campaign.path()).unwrap().display()
    );
    let refusal = async || match second.preflight(&other.request()).await.unwrap_err() {
        TestbedError::Unsupported { what, hint } => {
            assert!(hint.unwrap().contains("`capture = \"vptest\"`"));
            what.strip_prefix(&begin).unwrap_or_else(|| panic!("{what}")).to_owned()
        }
        error => panic!("{error:?}"),
    };
    assert!(refusal().await.starts_with(&format!("{prefix}-*)")), "between two iterations it has none");
    let journal = noted(&daemon, &lab.campaign).await;
    assert!(refusal().await.starts_with(&format!("{})", journal.entry.namespace)));
    let launched = second.launch(&other.request()).await.err();
    assert!(matches!(launched, Some(TestbedError::Unsupported { .. })), "{launched:?}");
    // Whoever captures by himself needs no right.
    lab.testbed_with(lab.by_cc(), LONG, None).preflight(&other.request()).await.unwrap();
    first.close().await;
    assert!(!lab.double.shared.directory.join("vptest-captures").exists());
    second.preflight(&other.request()).await.unwrap();
    second.close().await;
    journal.erase().unwrap();
}

/// minimega's containers need cgroups of version 1, and so do the double's.
fn containers() -> bool {
    let cgroups = ["cpu", "devices", "freezer", "memory"];
    let there = cgroups.iter().all(|name| Path::new("/sys/fs/cgroup").join(name).join("tasks").exists());
    let programs = ["unshare", "nsenter", "setpriv", "chroot", "mount", "ip", "tc", "ab", "tcpdump"];
    need::root() && programs.into_iter().all(need::program) && need("cgroup1", there)
}

fn sweep(double: &Process, factors: &str) -> Campaign {
    Campaign::planned(&format!(
        "name = \"captured\"\nrepetitions = 1\ntimeout = \"120 s\"\n\n\
         [factors]\ntestbed = \"minimega-container\"\noffload = \"off\"\n{factors}\n\n[workload]\npreset = \"ab\"\n\n\
         [testbed.minimega]\nsocket = \"{}\"\ncapture = \"minimega\"\n\n[capture]\nvantage = [\"guest\", \"host\"]\n\n\
         [verify]\nforeign_cpu = \"off\"\nsteal = \"off\"\nclient_cpu = \"off\"\n",
        double.socket().display()
    ))
}

fn nothing_is_left(double: &Process) {
    assert!(double_container::running(double.place.path()).is_empty());
    assert_eq!(double_container::cgroups(double.child.id()), [] as [&Path; 0]);
    assert!(!double.place.path().join("vptest-captures").exists());
}

async fn namespaces(double: &Process) -> Vec<String> {
    let daemon = Daemon::open(&double.socket(), Limits::default()).await.unwrap();
    daemon.namespaces().await.unwrap()
}

/// Beside somebody who uses the daemon by hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_iteration_that_minimega_captures() {
    if !containers() {
        return;
    }
    let double = Process::with_containers("").await;
    let daemon = Daemon::open(&double.socket(), Limits::default()).await.unwrap();
    daemon.namespace("exp1").unwrap().run(&["echo", "a"]).await.unwrap();
    let campaign = sweep(&double, "pairs = 2\nrequest = { url = \"/image.png?size=200kB\", count = 100 }");
    let ran = said(campaign.command(&["run"]).env("VPTEST_CACHE", cache()).output().unwrap());
    assert_eq!(ran.code, Some(0), "{}{}{:?}", ran.out, ran.err, campaign.outcomes());
    let outcomes = campaign.outcomes();
    // It counts no drops, and that is all there is against it.
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].2, "suspect", "{outcomes:?}");
    let reasons: Vec<String> = serde_json::from_str(&outcomes[0].3).unwrap();
    assert!(
        !reasons.is_empty() && reasons.iter().all(|reason| reason.contains("drops could not be read")),
        "{reasons:?}"
    );
    let db = databases(&campaign).remove(0);
    // Nothing is lost at the end, though minimega drops what it has not yet written.
    for node in ["client1", "server1", "client2", "server2"] {
        let of = |what: &str, more: &str| -> i64 {
            only(&db, &format!("SELECT count({what}) FROM capture WHERE node = '{node}'{more}"))
        };
        assert_eq!(
            (of("DISTINCT packets", ""), of("DISTINCT bytes", ""), of("*", " AND packets > 20")),
            (1, 1, 2),
            "{node}"
        );
        assert_eq!(
            (of("dropped_kernel", " AND vantage = 'host'"), of("dropped_kernel", " AND vantage = 'guest'")),
            (0, 1)
        );
    }
    let connections =
        "SELECT count(*) FROM capture WHERE snaplen = 0 OR interface NOT LIKE 'mega_tap%' AND vantage = 'host'";
    assert_eq!(only::<i64>(&db, connections), 0);
    let who = "SELECT value FROM environment WHERE name = 'testbed.minimega.capture'";
    assert_eq!(only::<String>(&db, who), "minimega, at the host's ends of the containers' links");
    campaign.assert_clean();
    nothing_is_left(&double);
    let mut left = namespaces(&double).await;
    left.sort();
    assert_eq!(left, ["exp1", "minimega"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_refused_while_minimega_captures_for_another_one() {
    if !containers() {
        return;
    }
    let double = Process::with_containers("").await;
    let long = "request = { url = \"/image.png?size=2MB\", count = 100000 }\nrate = \"10 Mbit/s\"";
    let (first, second) = (sweep(&double, long), sweep(&double, "request = { url = \"/\", count = 5 }"));
    let mut command = first.command(&["run"]);
    command.env("VPTEST_CACHE", cache()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut running = Killed(command.spawn().unwrap());
    let name = await_captures(&double).await;
    let refused = said(second.command(&["run"]).env("VPTEST_CACHE", cache()).output().unwrap());
    assert_eq!(refused.code, Some(3), "{}{}", refused.out, refused.err);
    assert!(refused.err.contains(&name) && refused.err.contains("`capture = \"vptest\"`"), "{}", refused.err);
    assert!(second.files().is_empty() && namespaces(&double).await.contains(&name));
    // Its right goes with it, however it ends.
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    first.expect(0, &["clean"]);
    let ran = said(second.command(&["run"]).env("VPTEST_CACHE", cache()).output().unwrap());
    assert_eq!(ran.code, Some(0), "{}{}{:?}", ran.out, ran.err, second.outcomes());
    assert_eq!(second.statuses(), ["suspect"], "{:?}", second.outcomes());
    nothing_is_left(&double);
}

/// The namespace of the run whose captures minimega takes, once it does.
async fn await_captures(double: &Process) -> String {
    let daemon = Daemon::open(&double.socket(), Limits::default()).await.unwrap();
    let begun = std::time::Instant::now();
    loop {
        for name in daemon.namespaces().await.unwrap().into_iter().filter(|name| name.starts_with("vptest-")) {
            let namespace = daemon.namespace(&name).unwrap();
            if namespace.rows(&["capture"], &["interface"]).await.unwrap().len() == 2 {
                return name;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(100), "it captures nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
