//! Slurm that is not there, does not answer, refuses, or has nodes that cannot do it: each is told in its own words.

use super::super::campaign::said;
use super::super::qemu::wait_until;
use super::lab::{self, Lab};
use super::{ON, SAMPLE, SLOW, Vptest, assert_complete, campaign, hosts};

#[test]
fn what_slurm_refuses_is_told_in_its_words() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(1, SAMPLE, "constraint = \"infiniband\"");
    let none = lab.vptest(&campaign, 2, &["run", "--on", "slurm:gpu"]);
    assert!(none.err.contains("Slurm has no partition `gpu` that takes this job"), "{}", none.err);
    let refused = lab.vptest(&campaign, 2, ON);
    assert!(
        refused.err.contains("Slurm refuses the array of iterations: Invalid feature specification"),
        "{}",
        refused.err
    );
    let odd = lab.vptest(&campaign, 2, &["run", "--on", "slurm:a b"]);
    assert!(odd.err.contains("`slurm:PARTITION`"), "{}", odd.err);
    // Nothing of it is left that would be gone on with.
    assert!(lab.vptest(&campaign, 0, &["cancel"]).err.contains("nothing is running"));
}

#[test]
fn without_slurm_or_its_controller_the_error_says_so() {
    if !lab::tools() {
        return;
    }
    let campaign = campaign(1, SAMPLE, "");
    let empty = tempfile::tempdir().unwrap();
    let mut command = campaign.command(ON);
    let missing = said(command.env("PATH", empty.path()).env("HOME", campaign.path()).output().unwrap());
    assert_eq!(missing.code, Some(3), "{}", missing.err);
    assert!(missing.err.contains("Slurm is not there (`scontrol` in PATH"), "{}", missing.err);
    // Nobody listens at port 1.
    let config = campaign.path().join("slurm.conf");
    let text = "ClusterName=x\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\nMessageTimeout=2\nNodeName=a\nPartitionName=p Nodes=a\n";
    std::fs::write(&config, text).unwrap();
    let mut command = campaign.command(ON);
    let silent = said(command.env("SLURM_CONF", &config).env("HOME", campaign.path()).output().unwrap());
    assert_eq!(silent.code, Some(3), "{}", silent.err);
    assert!(silent.err.contains("Slurm's controller cannot be reached"), "{}", silent.err);
}

#[test]
fn held_elements_are_told_and_run_once_they_are_released() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(1, SAMPLE, "options = [\"--hold\"]");
    let vptest = Vptest::start(&lab, &campaign);
    wait_until("an array that waits", || lab.queue().contains("JobHeldUser"));
    wait_until("that it is seen", || lab.vptest(&campaign, 0, &["status"]).out.contains("pending: JobHeldUser"));
    lab.expect(&["scontrol", "release", lab.arrays().first().unwrap()]);
    vptest.end(0, &campaign);
    assert_complete(&campaign, 2);
}

#[test]
fn a_node_that_fails_again_and_again_is_not_used_any_more() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(5, SLOW, "");
    // On one of the nodes there is a file where the directory of the campaign is to be, whose name is known for once.
    let place = campaign.path().join(".cache/vptest/campaigns");
    for directory in [&place, &campaign.out().join(".dispatch")] {
        std::fs::create_dir_all(directory).unwrap();
    }
    std::fs::write(campaign.out().join(".dispatch/id"), "0123456789ab").unwrap();
    std::fs::write(place.join("0123456789ab-n1"), "").unwrap();
    let vptest = Vptest::start(&lab, &campaign);
    let said = vptest.end(0, &campaign);
    assert_complete(&campaign, 10);
    assert!(said.err.contains("n1: it failed 3 times in a row"), "{}", said.err);
    assert!(said.err.contains("program, plan or orders could not be put there: mkdir: "), "{}", said.err);
    assert!(hosts(&campaign).iter().all(|host| host == "n2"));
}

#[test]
fn when_no_node_is_left_that_is_used_the_run_ends() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(5, SAMPLE, "");
    let place = campaign.path().join(".cache/vptest/campaigns");
    for directory in [&place, &campaign.out().join(".dispatch")] {
        std::fs::create_dir_all(directory).unwrap();
    }
    std::fs::write(campaign.out().join(".dispatch/id"), "0123456789ab").unwrap();
    for node in lab::NODES {
        std::fs::write(place.join(format!("0123456789ab-{node}")), "").unwrap();
    }
    let said = lab.vptest(&campaign, 3, ON);
    assert!(said.err.contains("no host is left that can run iterations: "), "{}", said.err);
    assert!(said.err.contains("it failed 3 times in a row"), "{}", said.err);
    assert_eq!((lab.unfinished().len(), lab.arrays().len()), (0, 1), "{}", lab.queue());
}

#[test]
fn a_node_that_does_not_see_what_the_spec_says_it_sees_ends_the_run() {
    if !lab::tools() {
        return;
    }
    let campaign = campaign(3, SAMPLE, "shared = true");
    let lab = Lab::without(campaign.path());
    let said = lab.vptest(&campaign, 3, ON);
    assert!(
        said.err.contains("does not see the campaign's directory, although `slurm.shared` is true"),
        "{}",
        said.err
    );
    assert_eq!(lab.unfinished(), [""; 0]);
}

#[test]
fn what_a_node_has_stays_when_another_worker_is_on_it() {
    let Some(lab) = lab::tools().then(Lab::new) else { return };
    let campaign = campaign(5, SLOW, "");
    let campaigns = campaign.path().join(".cache/vptest/campaigns");
    let place = campaigns.join("0123456789ab-n1");
    for directory in [&place, &campaign.out().join(".dispatch")] {
        std::fs::create_dir_all(directory).unwrap();
    }
    std::fs::write(campaign.out().join(".dispatch/id"), "0123456789ab").unwrap();
    std::fs::write(place.join("undelivered"), "").unwrap();
    let path = campaigns.join("worker-n1.lock");
    std::fs::write(&path, "/another/campaign\n1\n").unwrap();
    let lock = std::fs::File::open(&path).unwrap();
    lock.lock().unwrap();
    let vptest = Vptest::start(&lab, &campaign);
    let said = vptest.end(0, &campaign);
    assert!(said.err.contains("another worker runs on it: /another/campaign"), "{}", said.err);
    assert!(hosts(&campaign).iter().all(|host| host == "n2"));
    assert!(place.join("undelivered").exists(), "{}", said.err);
}
