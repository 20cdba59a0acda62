//! Texts of real kernels, and texts that no kernel writes.

use proptest::prelude::*;

use super::text::{interrupts, meminfo, mib, mib6, softirqs, softnet, stat, vmstat};
use super::value::{Counter, Kind, growth};

fn find<'a>(all: &'a [Counter], name: &str) -> &'a Counter {
    all.iter().find(|counter| counter.name == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn cpus_are_read_together_and_each() {
    let text = "cpu  100 1 50 900 7 2 3 5 11 0\ncpu0 60 1 20 400 7 2 1 5 11 0\ncpu1 40 0 30 500 0 0 2 0 0 0\n\
                intr 12345 0 9 0\nctxt 999\nbtime 17\nprocesses 41\nprocs_running 2\nprocs_blocked 0\nsoftirq 77 1 2\n";
    let all = stat(text, 100, true).unwrap();
    assert_eq!((find(&all, "cpu.user").value, find(&all, "cpu1.softirq").value), (100, 2));
    assert_eq!((find(&all, "ctxt").value, find(&all, "intr").value, find(&all, "forks").value), (999, 12_345, 41));
    assert_eq!(find(&all, "procs_running").kind, Kind::Gauge);
    assert!(!stat(text, 100, false).unwrap().iter().any(|counter| counter.name.starts_with("cpu1")));
    for bad in ["", "cpu  1 2 3\n", "cpu  1 x 1 1 1 1 1 1\n", "ctxt\n", "ctxt 18446744073709551616\n"] {
        assert!(stat(bad, 100, true).is_err(), "{bad:?}");
    }
}

#[test]
fn interrupts_have_the_names_of_their_devices() {
    let text = "           CPU0       CPU1       \n 24:          1          0  IO-APIC   5-edge      ACPI:Ged\n \
                32:        142          8 PCI-MSIX-0000:00:01.0   0-edge      virtio0-input.0\n\
                LOC:    1000       2000   Local timer interrupts\nERR:          3\n";
    let all = interrupts(text).unwrap();
    assert_eq!(find(&all, "irq.32.virtio0-input.0").value, 150);
    assert_eq!((find(&all, "irq.LOC").value, find(&all, "irq.ERR").value), (3000, 3));
    for bad in ["", "CPU0\n 1: x y\n", "CPU0 CPU1\n 1: 5 IO-APIC z\n", "CPU0\nno colon\n", "24: 1\n"] {
        assert!(interrupts(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn sums_over_other_cpus_have_no_difference() {
    let two = interrupts("  CPU0 CPU1\nLOC: 1000 2000 Local timer interrupts\n").unwrap();
    let one = interrupts("  CPU0\nLOC: 5000 Local timer interrupts\n").unwrap();
    assert_eq!(growth(find(&two, "irq.LOC"), find(&one, "irq.LOC")), None);
    let two = softirqs(" CPU0 CPU1\n NET_RX: 10 20\n", true).unwrap();
    let three = softirqs(" CPU0 CPU1 CPU2\n NET_RX: 15 20 900\n", true).unwrap();
    assert_eq!(growth(find(&two, "softirq.NET_RX"), find(&three, "softirq.NET_RX")), None, "a CPU came");
    assert_eq!(growth(find(&two, "cpu0.softirq.NET_RX"), find(&three, "cpu0.softirq.NET_RX")), Some(5));
    assert!(softirqs(" CPU0 CPU1\n NET_RX: 10\n", false).is_err());
    let line = |cpu: u32, dropped: u32| format!("00000005 {dropped:08x} 00000001 0 0 0 0 0 0 0 0 0 {cpu:08x} 0 0\n");
    let both = softnet(&(line(0, 1) + &line(1, 2)), true).unwrap();
    let off = softnet(&line(1, 9), true).unwrap();
    assert_eq!(find(&both, "softnet.dropped").value, 3);
    assert_eq!(growth(find(&both, "softnet.dropped"), find(&off, "softnet.dropped")), None, "a CPU was taken away");
    assert_eq!(growth(find(&both, "cpu1.softnet.dropped"), find(&off, "cpu1.softnet.dropped")), Some(7));
}

#[test]
fn counters_of_32_bits_begin_again() {
    let at = |value: u32| softirqs(&format!(" CPU0 CPU1\n NET_RX: {value} 7\n"), false).unwrap();
    let (before, after) = (at(u32::MAX - 9), at(5));
    assert_eq!(growth(find(&before, "softirq.NET_RX"), find(&after, "softirq.NET_RX")), Some(15));
}

#[test]
fn kernels_without_the_newer_columns_of_softnet_are_read() {
    let all = softnet("0014a226 00000001 00000007\n000f2f47 00000000 00000001\n", true).unwrap();
    assert_eq!((find(&all, "softnet.processed").value, find(&all, "softnet.time_squeeze").value), (2_347_373, 8));
    assert!(!all.iter().any(|counter| counter.name.contains("received_rps")), "not known is not 0");
    assert!(softnet("", false).is_err());
    assert!(softnet("zz 1 2\n", false).is_err());
}

#[test]
fn names_of_protocols_are_those_of_nstat() {
    let text = "Ip: Forwarding DefaultTTL InReceives\nIp: 1 64 10\nTcp: RtoAlgorithm MaxConn CurrEstab OutSegs\n\
                Tcp: 1 -1 4 1234\nIcmpMsg: InType3\nIcmpMsg: 2\n";
    // MaxConn is -1 on every kernel, and no counter.
    let all = mib(text).unwrap();
    let names: Vec<&str> = all.iter().map(|counter| counter.name.as_str()).collect();
    assert_eq!(names, ["IpInReceives", "TcpCurrEstab", "TcpOutSegs", "IcmpMsgInType3"]);
    assert_eq!((all[1].kind, all[3].kind), (Kind::Gauge, Kind::FromNothing));
    for bad in ["", "Tcp: A B\n", "Tcp: A B\nTcp: 1\n", "Tcp: A\nUdp: 1\n", "Tcp: A\nTcp: x\n", "a b\nc d\n"] {
        assert!(mib(bad).is_err(), "{bad:?}");
    }
    let six = mib6("Ip6InReceives                   \t10\nIcmp6InType135 \t2\n").unwrap();
    assert_eq!((six[0].value, six[1].kind), (10, Kind::FromNothing));
    assert!(mib6("Ip6InReceives\n").is_err() && mib6("A 1 2\n").is_err());
}

#[test]
fn memory_is_in_bytes_and_pages_in_use_are_no_counters() {
    let memory = meminfo("MemTotal:       100 kB\nMemFree:   5 kB\nHugePages_Total:   0\n").unwrap();
    assert_eq!((memory.len(), find(&memory, "mem.MemFree").value), (2, 5120));
    assert!(meminfo("MemFree: x kB\n").is_err() && meminfo("MemFree: 99999999999999999999 kB\n").is_err());
    let pages = vmstat("nr_free_pages 5\nnr_dirtied 6\npgfault 7\n").unwrap();
    assert_eq!((pages.len(), find(&pages, "vm.nr_dirtied").value), (2, 6));
    assert!(vmstat("pgfault\n").is_err());
}

#[test]
fn files_without_end_are_refused() {
    let text = (0..200_000).map(|n| format!("vm{n} 1\n")).collect::<String>();
    assert!(vmstat(&text).unwrap_err().contains("more than"));
    let long = format!("Tcp: {}\n", "x".repeat(100_000));
    assert!(mib(&long).unwrap_err().len() < 200, "an error is one short line");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s)[ -~\\n]{0,300}", noise in "[A-Z:0-9 \\n]{0,200}") {
        for text in [text, noise] {
            for read in [stat(&text, 100, true), interrupts(&text), softirqs(&text, true), softnet(&text, true),
                         meminfo(&text), vmstat(&text), mib(&text), mib6(&text)] {
                if let Err(why) = read {
                    prop_assert!(why.len() < 400);
                }
            }
        }
    }
}
