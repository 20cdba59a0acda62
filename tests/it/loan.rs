//! Settings that a host lends are put back: by their owner, or by whoever comes after one that was killed.

use std::process::Command;

use vptest::host::ethtool::{self, Offload};
use vptest::host::link;
use vptest::host::loan::{Loan, LoanRate, Wanted};
use vptest::host::namespace::Namespace;
use vptest::host::netlink::Netlink;
use vptest::host::qdisc::{self, RootQdisc, TokenBucket};
use vptest::units::Rate;

use super::need;

const INDEX: u32 = 10;
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Runs `work` in a namespace with the veth pair v0, v1, in a thread of its own.
fn inside(work: impl FnOnce() + Send) {
    let namespace = Namespace::new().unwrap();
    let mut netlink = namespace.run(Netlink::open).unwrap();
    let end = |name, index| link::End { name, index, namespace: None, bridge: None };
    netlink.apply(&[link::veth(end("v0", INDEX), end("v1", INDEX + 1), None)]).unwrap();
    let run = || {
        work();
        Ok(())
    };
    namespace.run(run).unwrap();
}

fn wanted() -> Wanted {
    Wanted {
        interface: "v0".to_owned(),
        mtu: Some(900),
        offload: Some(false),
        rate: LoanRate::Limit(8_000_000),
        sysctls: vec![("net/ipv4/ip_forward".to_owned(), "1".to_owned())],
        governor: None,
    }
}

/// MTU, offloads, root discipline and the kernel parameter.
fn state() -> (Option<u32>, [bool; 4], RootQdisc, String) {
    let mut netlink = Netlink::open().unwrap();
    let listed = link::read_interfaces(&mut netlink).unwrap();
    let mtu = listed.into_iter().find(|interface| interface.index == INDEX).unwrap().mtu;
    let offloads = ethtool::offloads(&netlink, "v0").unwrap();
    let root = qdisc::read_roots(&mut netlink).unwrap().into_iter().find(|root| root.index == INDEX).unwrap();
    (mtu, Offload::ALL.map(|offload| offloads.is_on(offload)), root, std::fs::read_to_string(FORWARD).unwrap())
}

/// Not all alike, so that switching all on or all off is not the way back.
fn mix() {
    let netlink = Netlink::open().unwrap();
    ethtool::set_offloads(&netlink, "v0", &[Offload::Gro], true).unwrap();
    ethtool::set_offloads(&netlink, "v0", &[Offload::Tso], false).unwrap();
}

#[test]
fn what_is_lent_is_changed_and_put_back_exactly() {
    if !need::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    inside(|| {
        mix();
        let before = state();
        let (mut loan, notes) = Loan::take(directory.path(), &wanted(), "a test").unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        let (mtu, offloads, root, forward) = state();
        assert_eq!((mtu, offloads, forward.trim()), (Some(900), [false; 4], "1"));
        assert_eq!((root.kind.as_str(), root.rate), ("tbf", Some(1_000_000)));
        let busy = Loan::take(directory.path(), &wanted(), "another").unwrap_err();
        assert_eq!(busy.to_string(), "v0 is in use by a test");
        assert_eq!(loan.give_back(), [] as [&str; 0]);
        assert_eq!(state(), before);
        drop(loan);
        assert!(!directory.path().join("v0.json").exists());
    });
}

#[test]
fn the_debt_of_a_process_that_was_killed_is_paid_by_the_next() {
    if !need::root() || !need::program("ip") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    inside(|| {
        mix();
        let before = state();
        let (mut loan, _) = Loan::take(directory.path(), &wanted(), "process 7").unwrap();
        let book = directory.path().join("v0.json");
        let debt = std::fs::read(&book).unwrap();
        loan.give_back();
        drop(loan);
        // As one that is killed leaves it: everything changed, the debt written down, and nobody with the lock.
        std::fs::write(&book, debt).unwrap();
        let changed = |command: &str| assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
        changed("ip link set v0 mtu 900 && echo 1 > /proc/sys/net/ipv4/ip_forward");
        let mut netlink = Netlink::open().unwrap();
        ethtool::set_offloads(&netlink, "v0", &Offload::ALL, false).unwrap();
        netlink.apply(&[bucket(8_000_000).set(INDEX, "v0")]).unwrap();
        assert_ne!(state(), before);
        let only = Wanted { interface: "v0".to_owned(), ..Wanted::default() };
        let (loan, notes) = Loan::take(directory.path(), &only, "process 8").unwrap();
        assert_eq!(notes, ["settings of v0 that process 7 had left changed were put back"]);
        assert_eq!(state(), before);
        drop(loan);
    });
}

#[test]
fn debts_on_other_interfaces_are_paid_too_and_what_they_share_is_lent_once() {
    if !need::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    inside(|| {
        let before = state();
        let (mut loan, _) = Loan::take(directory.path(), &wanted(), "process 7").unwrap();
        let other = |sysctls: &[(&str, &str)]| Wanted {
            interface: "v1".to_owned(),
            sysctls: sysctls.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..Wanted::default()
        };
        let shared = other(&[("net/ipv4/ip_forward", "1")]);
        let busy = Loan::take(directory.path(), &shared, "another").unwrap_err().to_string();
        assert_eq!(busy, "what all interfaces share (kernel parameters, governors) is in use by process 7");
        // The other interface alone is free, and the debt of a living process is its own affair.
        let (free, notes) = Loan::take(directory.path(), &other(&[]), "another").unwrap();
        assert_eq!((notes.len(), state().0), (0, Some(900)));
        drop(free);

        let debt = std::fs::read(directory.path().join("v0.json")).unwrap();
        loan.give_back();
        drop(loan);
        std::fs::write(directory.path().join("v0.json"), debt).unwrap();
        std::fs::write(FORWARD, "1").unwrap();
        let (loan, notes) = Loan::take(directory.path(), &shared, "process 8").unwrap();
        assert_eq!(notes, ["settings of v0 that process 7 had left changed were put back"]);
        drop(loan);
        assert_eq!(state(), before);
    });
}

#[test]
fn what_cannot_be_written_or_is_empty_is_put_back_all_the_same() {
    if !need::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let with = |name: &str, value: &str| Wanted {
        interface: "v0".to_owned(),
        sysctls: vec![(name.to_owned(), value.to_owned())],
        ..Wanted::default()
    };
    inside(|| {
        const PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        let ports = || std::fs::read_to_string(PORTS).unwrap().trim().to_owned();
        assert_eq!(ports(), "");
        let (mut loan, _) =
            Loan::take(directory.path(), &with("net/ipv4/ip_local_reserved_ports", "7000"), "a").unwrap();
        assert_eq!((ports().as_str(), loan.give_back().len()), ("7000", 0));
        assert_eq!(ports(), "", "a parameter that was empty is so again");
        drop(loan);
        // One that is only read is refused, and stands in nobody's way.
        let refused =
            Loan::take(directory.path(), &with("net/ipv4/tcp_available_congestion_control", "reno"), "a").unwrap_err();
        assert!(refused.to_string().contains("tcp_available_congestion_control"), "{refused}");
        drop(Loan::take(directory.path(), &with("net/ipv4/ip_forward", "1"), "b").unwrap());
    });
}

#[test]
fn a_debt_of_another_boot_or_of_an_interface_that_is_gone_is_none() {
    if !need::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let book = directory.path().join("v0.json");
    inside(|| {
        let (mut loan, _) = Loan::take(directory.path(), &wanted(), "process 7").unwrap();
        let debt = std::fs::read_to_string(&book).unwrap();
        loan.give_back();
        drop(loan);
        let before = state();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let only = Wanted { interface: "v1".to_owned(), ..Wanted::default() };
        let take = |debt: String| {
            std::fs::write(&book, debt).unwrap();
            std::fs::write(FORWARD, "1").unwrap();
            let (_loan, notes) = Loan::take(directory.path(), &only, "process 8").unwrap();
            assert!(!book.exists());
            notes
        };
        let notes = take(debt.replace(boot.trim(), "another"));
        assert_eq!(notes, ["the host was restarted since process 7 changed settings of v0"]);
        assert_eq!(state().3.trim(), "1", "what is there now is the new boot's own");
        let gone = debt.replace(&format!("\"index\":{INDEX},"), "\"index\":4711,");
        assert_ne!(gone, debt);
        assert_eq!(take(gone), ["settings of v0 that process 7 had left changed were put back"]);
        assert_eq!(state(), before);
    });
}

#[test]
fn a_debt_of_another_version_is_refused_and_one_that_is_not_paid_in_full_stays() {
    if !need::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let book = directory.path().join("v0.json");
    inside(|| {
        let (mut loan, _) = Loan::take(directory.path(), &wanted(), "process 7").unwrap();
        let debt = std::fs::read_to_string(&book).unwrap();
        loan.give_back();
        drop(loan);
        let only = Wanted { interface: "v0".to_owned(), ..Wanted::default() };
        let refused = |debt: &str| {
            std::fs::write(&book, debt).unwrap();
            let error = Loan::take(directory.path(), &only, "process 8").unwrap_err().to_string();
            assert_eq!(std::fs::read_to_string(&book).unwrap(), debt, "it stays for whoever can pay it");
            error
        };
        for (version, said) in [("\"version\":2,", "version 2 instead of 1"), ("", "version none instead of 1")] {
            let error = refused(&debt.replace("\"version\":1,", version));
            assert!(error.contains("v0.json was written by another vptest") && error.contains(said), "{error}");
        }
        let error = refused(&debt.replace("\"version\":1,", "\"version\":1,\"colour\":\"red\","));
        assert!(error.contains("unknown field `colour`"), "{error}");
        // The driver does not make of it what it made before.
        let (_, text) = debt.split_once("\"offloads\":[").unwrap();
        let (offloads, _) = text.split_once(']').unwrap();
        let other = if offloads.starts_with("true") {
            offloads.replacen("true", "false", 1)
        } else {
            offloads.replacen("false", "true", 1)
        };
        let error = refused(&debt.replace(offloads, &other));
        assert!(error.contains("cannot put the offloads of v0 back: they were sg "), "{error}");
    });
}

#[test]
fn a_directory_that_others_can_write_is_not_believed() {
    if !need::root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(directory.path(), open).unwrap();
    inside(|| {
        let refused = Loan::take(directory.path(), &wanted(), "a").unwrap_err().to_string();
        assert!(refused.contains("can be written by others"), "{refused}");
    });
}

fn bucket(bits: u64) -> TokenBucket {
    TokenBucket::for_link(Rate::from_bits_per_second(bits).unwrap(), 1500).unwrap()
}

#[test]
fn nothing_is_changed_when_anything_is_refused() {
    if !need::root() || !need::program("ip") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let refused = |wanted: &Wanted| Loan::take(directory.path(), wanted, "a test").unwrap_err().to_string();
    let with = |name: &str, value: &str| Wanted { sysctls: vec![(name.to_owned(), value.to_owned())], ..wanted() };
    inside(|| {
        mix();
        let before = state();
        for (wanted, text) in [
            (with("net/no_such", "1"), "cannot read /proc/sys/net/no_such"),
            (with("../../etc/x", "1"), "not a name as net/ipv4/ip_forward"),
            // Refused when everything else is in force already.
            (with("net/ipv4/ip_forward", "x"), "cannot write `x`"),
            (Wanted { mtu: Some(10), ..wanted() }, "v0"),
            (Wanted { rate: LoanRate::Limit(1001), ..wanted() }, "no whole number of bytes per second"),
            (Wanted { interface: "w9".to_owned(), ..wanted() }, "there is no interface w9 (there are: lo, "),
        ] {
            let said = refused(&wanted);
            assert!(said.contains(text), "{said}");
            assert_eq!(state(), before, "{said}");
        }
        let ipv6 = Command::new("ip").args(["addr", "add", "2001:db8::1/64", "dev", "v0"]).status().unwrap();
        assert!(ipv6.success());
        assert!(refused(&wanted()).contains("takes the IPv6 address 2001:db8::1 from v0"));
        assert!(Command::new("ip").args(["addr", "flush", "dev", "v0"]).status().unwrap().success());
        Netlink::open().unwrap().apply(&[bucket(16_000_000).set(INDEX, "v0")]).unwrap();
        assert!(refused(&wanted()).contains("a queueing discipline of its own (tbf)"));
        assert_eq!(state().2.rate, Some(2_000_000));
    });
}
