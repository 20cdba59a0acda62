//! Taps that outlive their machines. Their names begin anew, so that a name alone says nothing.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use vptest::host::link;
use vptest::host::namespace::Namespace as Network;
use vptest::host::netlink::Netlink;
use vptest::testbed::minimega::journal::{Entry, Journal};
use vptest::testbed::minimega::leftovers::{self, Kept, Removed};
use vptest::testbed::minimega::machine::{Machine, State};
use vptest::testbed::minimega::{Daemon, Limits, Owner};

use super::super::Process;
use super::super::testbed::{Campaign, Killed, held, machine_of, noted};
use crate::need;

const TAP: &str = "mega_tap4000001";

fn tools() -> bool {
    need::root() && ["unshare", "ip"].into_iter().all(need::program)
}

fn number_of(tap: &str, network: &Network) -> Option<u32> {
    let read = || link::read_interfaces(&mut Netlink::open()?).map_err(|error| error.source);
    network.run(read).unwrap().into_iter().find(|one| one.name == tap).map(|one| one.index)
}

/// A machine's process in a network of its own, where its tap is.
struct Left {
    machine: Killed,
    network: Network,
}

impl Left {
    fn by(base: &std::path::Path) -> Self {
        let script = format!("ip tuntap add dev {TAP} mode tap && echo there; sleep 1000; :");
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", &script, "qemu"]).arg(base.join("7/qmp"));
        let mut machine = Killed(command.stdout(Stdio::piped()).process_group(0).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(machine.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "there\n");
        let network = Network::of_process(machine.0.id().try_into().unwrap()).unwrap();
        Self { machine, network }
    }

    /// As a vptest does that is in this network.
    fn clean(&self, campaign: &Campaign) -> Removed {
        let clean = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(leftovers::clean(campaign.path(), Kept::Goes))
        };
        self.network.run(clean).unwrap()
    }
}

/// What becomes of a dead minimega's tap that is noted so: is it there, and has its machine's process been ended?
async fn becomes(change: impl FnOnce(&mut Entry)) -> (bool, bool) {
    let (mut double, campaign) = (Process::start("").await, Campaign::new());
    let daemon = Daemon::open(&double.socket(), Limits::default()).await.unwrap();
    let mut left = Left::by(&daemon.base);
    let mut journal = noted(&daemon, &campaign).await;
    let mut machine = machine_of(7, &left.machine.0);
    machine.taps = vec![TAP.to_owned()];
    machine.links = BTreeMap::from([(TAP.to_owned(), number_of(TAP, &left.network).unwrap())]);
    journal.entry.machines = vec![machine];
    change(&mut journal.entry);
    journal.keep().unwrap();
    drop((journal, daemon));
    double.end();
    held(&campaign, 0).await;
    let done = left.clean(&campaign);
    assert_eq!(done.left, Vec::<String>::new());
    assert!(campaign.is_clean());
    let is_there = number_of(TAP, &left.network).is_some();
    assert_eq!(done.removed.contains(&format!("tap {TAP}")), !is_there, "{done:?}");
    (is_there, left.machine.0.try_wait().unwrap().is_some())
}

#[tokio::test]
async fn a_dead_machines_tap_is_removed_by_its_number() {
    if !tools() {
        return;
    }
    assert_eq!(becomes(|_| ()).await, (false, true));
    // The machine's own was removed, and somebody has made another one of its name.
    let another = |entry: &mut Entry| *entry.machines[0].links.get_mut(TAP).unwrap() += 1;
    assert_eq!(becomes(another).await, (true, true));
}

/// A number of before the boot says nothing, of a process neither.
#[tokio::test]
async fn after_a_boot_nothing_is_a_dead_machines() {
    if !tools() {
        return;
    }
    let before = |entry: &mut Entry| entry.boot = Some("00000000-0000-0000-0000-000000000000".to_owned());
    assert_eq!(becomes(before).await, (true, false));
}

/// An earlier vptest has noted names alone.
#[tokio::test]
async fn by_an_old_journal_a_tap_is_known_by_its_name() {
    if !tools() {
        return;
    }
    let old = |entry: &mut Entry| {
        entry.boot = None;
        entry.machines[0].links.clear();
    };
    assert_eq!(becomes(old).await, (false, true));
}

/// In the network that minimega runs in.
#[tokio::test]
async fn machines_are_noted_with_the_numbers_of_their_taps() {
    if !tools() {
        return;
    }
    let double = Process::with_containers(&format!("ip tuntap add dev {TAP} mode tap")).await;
    let daemon = Daemon::open(&double.socket(), Limits::default()).await.unwrap();
    let network = Network::of_process(daemon.peer().pid.unwrap()).unwrap();
    let campaign = Campaign::new();
    let namespace = daemon.fresh_namespace(&Owner::of(campaign.path())).await.unwrap();
    let mut journal = Journal::begin(campaign.path(), &namespace, &campaign.path().join("consoles")).unwrap();
    let machine = Machine {
        id: 7,
        name: "client1".to_owned(),
        host: daemon.host.clone(),
        state: State::Building,
        uuid: String::new(),
        error: None,
        taps: vec![TAP.to_owned(), "mega_tap4000002".to_owned()],
        cards: vec![],
        bridge: String::new(),
        pid: None,
    };
    journal.note([&machine]).unwrap();
    let noted = &journal.entry.machines[0];
    assert_eq!(noted.links, BTreeMap::from([(TAP.to_owned(), number_of(TAP, &network).unwrap())]));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(journal.entry.boot.as_deref(), Some(boot.trim()));
    journal.erase().unwrap();
}

/// minimega says that the namespace is gone, and its machine's tap is there all the same.
#[tokio::test]
async fn a_tap_that_minimega_leaves_is_removed_after_it() {
    if !tools() {
        return;
    }
    let double = Process::with_containers(&format!("ip tuntap add dev {TAP} mode tap")).await;
    let daemon = Daemon::open(&double.socket(), Limits::default()).await.unwrap();
    let network = Network::of_process(daemon.peer().pid.unwrap()).unwrap();
    let number = number_of(TAP, &network).unwrap();
    for (noted_as, stays) in [(number + 1, true), (number, false)] {
        let campaign = Campaign::new();
        let mut journal = noted(&daemon, &campaign).await;
        let mut machine = machine_of(7, &double.child);
        (machine.process, machine.taps) = (None, vec![TAP.to_owned()]);
        machine.links = BTreeMap::from([(TAP.to_owned(), noted_as)]);
        journal.entry.machines = vec![machine];
        journal.keep().unwrap();
        drop(journal);
        held(&campaign, 0).await;
        let done = leftovers::clean(campaign.path(), Kept::Goes).await.unwrap();
        assert_eq!(done.left, Vec::<String>::new());
        assert_eq!(number_of(TAP, &network).is_some(), stays);
        assert!(campaign.is_clean());
    }
}
