//! Elements that Slurm ends because they take more than they are given.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::campaign::{Campaign, FAKE};
use super::super::need;
use super::super::qemu::wait_until;
use super::lab::{self, Lab};
use super::{ON, Vptest, running};

/// Two iterations that never end, with the shortest time there is.
fn endless() -> Campaign {
    let client = r#"["sh", "-c", "exec sleep 1000"]"#;
    let spec = FAKE.replace("repetitions = 3", "repetitions = 1").replace(r#"["sample", "rps", "1000", "10"]"#, client);
    Campaign::planned(&format!("{spec}\n[slurm]\ntime = \"2 min\"\n"))
}

/// Process numbers of a campaign's workers.
fn workers(campaign: &Campaign) -> Vec<i32> {
    let place = format!("{}/.cache/vptest/campaigns/", campaign.path().display());
    let is_one = |line: &str| line.contains("worker\0--place\0") && line.contains(&place);
    let numbers = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        entry.file_name().to_str()?.parse().ok().filter(|_: &i32| is_one(&String::from_utf8_lossy(&line)))
    });
    numbers.collect()
}

#[test]
fn what_the_time_limit_ends_is_told_as_that_and_not_tried_again() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = endless();
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("both workers", || running(&lab) == 2 && workers(&campaign).len() == 2);
    // One of them does not hear what Slurm tells it before the end.
    kill(Pid::from_raw(workers(&campaign)[0]), Signal::SIGSTOP).unwrap();
    lab.expect(&["scontrol", "update", &format!("jobid={}", lab.arrays().first().unwrap()), "TimeLimit=1"]);
    let said = vptest.end(1, &campaign);
    assert!(said.err.contains("`slurm.time` of 2 min leaves 90 s until an element is told to end"), "{}", said.err);
    assert!(lab.queue().contains("|TIMEOUT|") && lab.arrays().len() == 1, "{}{}", lab.queue(), said.err);
    let text = "iterations 1, 2: ended by Slurm's time limit of 1 min; raise `slurm.time`";
    assert!(said.err.contains(text), "{}", said.err);
    // The one that was told has stored what it could; Slurm wakes the other one before it kills it, which may do so, too.
    let statuses = campaign.statuses();
    assert!(!statuses.is_empty() && statuses.iter().all(|status| status == "interrupted"), "{}", said.err);
}

#[test]
fn want_of_memory_is_told_as_that() {
    let Some(lab) = (lab::memory_tools() && need::program("perl")).then(Lab::with_limited_memory) else { return };
    let client = r#"["perl", "-e", "my $x = q(x) x 1000000000; print qq(rps 1\\n)"]"#;
    let campaign = super::campaign(1, client, "");
    let said = lab.vptest(&campaign, 1, ON);
    assert!(said.err.contains(": Slurm ended processes of it for want of memory (OUT_OF_MEMORY)"), "{}", said.err);
    let was_killed = |reasons: &str| reasons.contains("perl ended with signal 9");
    assert!(campaign.outcomes().iter().all(|(.., reasons)| was_killed(reasons)), "{:?}", campaign.outcomes());
    assert_eq!(lab.arrays().len(), 1, "{}", lab.queue());
}
