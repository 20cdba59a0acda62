//! The kernel's text files of counters. Pure: text in, counters out; a line that is not understood is an error, since what
//! it counts would be missed.

use super::value::{Counter, Kind, Read, Unit};

/// Most counters of one file; no kernel has so many.
const MOST: usize = 1 << 17;

/// States of a CPU in the order of `/proc/stat` (proc(5)).
const STATES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// `/proc/stat`: `cpu.user` and so on of all CPUs, and with `each` of every one (`cpu0.user`); `ctxt`, `intr`, `softirq`,
/// `forks`; gauges `procs_running`, `procs_blocked`. User time includes that of guests, as in the file.
pub(super) fn stat(text: &str, ticks: u32, each: bool) -> Read {
    let mut all = Vec::new();
    for line in text.lines() {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let first = || rest.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
        match name {
            "cpu" => all.extend(states("cpu", rest, ticks).ok_or_else(|| strange(line))?),
            "ctxt" | "intr" | "softirq" => all.push(Counter::grows(name, first().ok_or_else(|| strange(line))?)),
            "processes" => all.push(Counter::grows("forks", first().ok_or_else(|| strange(line))?)),
            "procs_running" | "procs_blocked" => {
                all.push(Counter::gauge(name, first().ok_or_else(|| strange(line))?));
            }
            cpu if cpu.starts_with("cpu") && each => {
                all.extend(states(cpu, rest, ticks).ok_or_else(|| strange(line))?);
            }
            _ => {}
        }
    }
    bounded(all)
}

fn states(cpu: &str, columns: &str, ticks: u32) -> Option<Vec<Counter>> {
    let mut columns = columns.split_ascii_whitespace();
    let state = |state: &&str| {
        let value = columns.next()?.parse().ok()?;
        let counter = Counter::grows(format!("{cpu}.{state}"), value).in_unit(Unit::Tick(ticks));
        Some(Counter { kind: Kind::Ticks, ..counter })
    };
    STATES.iter().map(state).collect()
}

/// `/proc/interrupts`: a sum over CPUs for each line, named by its label and what is behind it: `irq.24.virtio0-input.0`,
/// `irq.LOC`. The kernel counts each CPU's in 32 bits. A line of one number that belongs to no CPU (`ERR`, `MIS`) is one
/// of them.
pub(super) fn interrupts(text: &str) -> Read {
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let cpus: Vec<&str> = head.split_ascii_whitespace().collect();
    if cpus.is_empty() || cpus.iter().any(|cpu| !cpu.starts_with("CPU")) {
        return Err(strange(head));
    }
    let mut all = Vec::new();
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let (label, rest) = line.split_once(':').ok_or_else(|| strange(line))?;
        let label = label.trim();
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        let counts: Vec<u64> = words.iter().take(cpus.len()).map_while(|word| word.parse().ok()).collect();
        if counts.is_empty() || (counts.len() < cpus.len() && words.len() > counts.len()) {
            return Err(strange(line));
        }
        // Behind the counts stand chip, line and, last, the device's name; for named labels a description.
        let numbered = label.bytes().all(|byte| byte.is_ascii_digit());
        let name = match words.last().filter(|_| numbered && words.len() > cpus.len()) {
            Some(device) => format!("irq.{label}.{device}"),
            None => format!("irq.{label}"),
        };
        let sum = counts.iter().fold(0_u64, |sum, count| sum.wrapping_add(*count));
        all.push(Counter::grows32(name, sum).of(parts(&cpus)));
    }
    bounded(all)
}

/// `/proc/softirqs`: `softirq.NET_RX` of all CPUs, and with `each` of every one (`cpu0.softirq.NET_RX`). Counted in 32
/// bits.
pub(super) fn softirqs(text: &str, each: bool) -> Read {
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let cpus: Vec<&str> = head.split_ascii_whitespace().collect();
    if cpus.is_empty() || cpus.iter().any(|cpu| !cpu.starts_with("CPU")) {
        return Err(strange(head));
    }
    let mut all = Vec::new();
    for line in lines {
        let (label, rest) = line.split_once(':').ok_or_else(|| strange(line))?;
        let label = label.trim();
        let counts: Option<Vec<u64>> = rest.split_ascii_whitespace().map(|word| word.parse().ok()).collect();
        let counts = counts.filter(|counts| counts.len() == cpus.len()).ok_or_else(|| strange(line))?;
        let sum = counts.iter().fold(0_u64, |sum, count| sum.wrapping_add(*count));
        all.push(Counter::grows32(format!("softirq.{label}"), sum).of(parts(&cpus)));
        if each {
            let of_cpu = |(cpu, count): (&&str, &u64)| {
                Counter::grows32(format!("{}.softirq.{label}", cpu.to_ascii_lowercase()), *count)
            };
            all.extend(cpus.iter().zip(&counts).map(of_cpu));
        }
    }
    bounded(all)
}

/// A number that stands for a set of CPUs: FNV-1a of their names.
fn parts(cpus: &[&str]) -> u64 {
    let bytes = cpus.iter().flat_map(|cpu| cpu.bytes().chain([b' ']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Columns of `/proc/net/softnet_stat` that count (Linux `net/core/net-procfs.c`).
const SOFTNET: [(usize, &str); 5] =
    [(0, "processed"), (1, "dropped"), (2, "time_squeeze"), (9, "received_rps"), (10, "flow_limit")];

/// `/proc/net/softnet_stat`: `softnet.dropped` and so on of all CPUs that are on, and with `each` of every one. Counted in
/// 32 bits. Kernels before 5.10 do not say whose line it is: it is then its number.
pub(super) fn softnet(text: &str, each: bool) -> Read {
    let mut sums = [0_u64; SOFTNET.len()];
    let (mut cpus, mut all, mut columns) = (Vec::new(), Vec::new(), usize::MAX);
    for (number, line) in text.lines().enumerate() {
        let numbers: Option<Vec<u64>> =
            line.split_ascii_whitespace().map(|word| u64::from_str_radix(word, 16).ok()).collect();
        let numbers = numbers.filter(|numbers| numbers.len() >= 3).ok_or_else(|| strange(line))?;
        columns = columns.min(numbers.len());
        let cpu = format!("cpu{}", numbers.get(12).copied().unwrap_or(number as u64));
        for ((column, name), sum) in SOFTNET.iter().zip(&mut sums) {
            let Some(value) = numbers.get(*column) else { continue };
            *sum = sum.wrapping_add(*value);
            if each {
                all.push(Counter::grows32(format!("{cpu}.softnet.{name}"), *value));
            }
        }
        cpus.push(cpu);
    }
    if cpus.is_empty() {
        return Err("it is empty".to_owned());
    }
    let parts = parts(&cpus.iter().map(String::as_str).collect::<Vec<_>>());
    let present = SOFTNET.iter().zip(sums).filter(|((column, _), _)| *column < columns);
    all.extend(present.map(|((_, name), sum)| Counter::grows32(format!("softnet.{name}"), sum).of(parts)));
    bounded(all)
}

/// Values of `/proc/meminfo` that are of use; all are gauges in bytes.
const MEMORY: [&str; 10] =
    ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapFree", "Dirty", "AnonPages", "Shmem", "Slab"];

/// `/proc/meminfo`: gauges `mem.MemAvailable` and so on.
pub(super) fn meminfo(text: &str) -> Read {
    let mut all = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':').filter(|(name, _)| MEMORY.contains(name)) else { continue };
        let kib = rest.trim().strip_suffix("kB").and_then(|digits| digits.trim().parse::<u64>().ok());
        let bytes = kib.and_then(|kib| kib.checked_mul(1024)).ok_or_else(|| strange(line))?;
        all.push(Counter::gauge(format!("mem.{name}"), bytes).in_unit(Unit::Byte));
    }
    if all.is_empty() { Err("nothing in it is known".to_owned()) } else { Ok(all) }
}

/// `/proc/vmstat`: everything in it that counts events: `vm.pgfault`. Its numbers of pages (`nr_…`) are left out but for
/// `nr_dirtied` and `nr_written`.
pub(super) fn vmstat(text: &str) -> Read {
    let mut all = Vec::new();
    for line in text.lines() {
        let (name, digits) = line.split_once(' ').ok_or_else(|| strange(line))?;
        if name.starts_with("nr_") && !["nr_dirtied", "nr_written"].contains(&name) {
            continue;
        }
        let value = digits.trim().parse().map_err(|_| strange(line))?;
        all.push(Counter::grows(format!("vm.{name}"), value));
    }
    bounded(all)
}

/// Values of `/proc/net/snmp` that do not count.
const CONSTANTS: [&str; 6] =
    ["IpForwarding", "IpDefaultTTL", "TcpRtoAlgorithm", "TcpRtoMin", "TcpRtoMax", "TcpMaxConn"];

/// `/proc/net/snmp` and `/proc/net/netstat`: a line of names and a line of values for each group. Names are those that
/// nstat(8) prints: `TcpOutSegs`, `TcpExtTCPTimeouts`.
pub(super) fn mib(text: &str) -> Read {
    let mut all = Vec::new();
    let mut lines = text.lines();
    while let Some(head) = lines.next() {
        let line = lines.next().ok_or_else(|| strange(head))?;
        let ((group, names), (same, values)) =
            head.split_once(':').zip(line.split_once(':')).ok_or_else(|| strange(head))?;
        let (names, values): (Vec<_>, Vec<_>) =
            (names.split_ascii_whitespace().collect(), values.split_ascii_whitespace().collect());
        if group != same || names.len() != values.len() {
            return Err(strange(line));
        }
        for (name, value) in names.iter().zip(values) {
            let name = format!("{group}{name}");
            if CONSTANTS.contains(&name.as_str()) {
                continue;
            }
            all.push(of_mib(name, value.parse().map_err(|_| strange(line))?));
        }
    }
    bounded(all)
}

/// `/proc/net/snmp6`: a name and a value on each line: `Ip6InReceives`.
pub(super) fn mib6(text: &str) -> Read {
    let one = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (name, value, end) = (words.next()?, words.next()?.parse().ok()?, words.next());
        end.is_none().then(|| of_mib(name.to_owned(), value))
    };
    let all: Result<Vec<_>, _> = text.lines().map(|line| one(line).ok_or_else(|| strange(line))).collect();
    bounded(all?)
}

/// The kernel counts in machine words, and does not list types of ICMP messages before the first of them.
fn of_mib(name: String, value: u64) -> Counter {
    let counter = if usize::BITS == 32 { Counter::grows32(name, value) } else { Counter::grows(name, value) };
    match counter.name.as_str() {
        "TcpCurrEstab" => Counter { kind: Kind::Gauge, ..counter },
        name if ["IcmpMsg", "Icmp6InType", "Icmp6OutType"].iter().any(|start| name.starts_with(start)) => {
            Counter { kind: Kind::FromNothing, ..counter }
        }
        _ => counter,
    }
}

fn bounded(all: Vec<Counter>) -> Read {
    match all.len() {
        0 => Err("it is empty".to_owned()),
        n if n > MOST => Err(format!("it has {n} counters, more than {MOST}")),
        _ => Ok(all),
    }
}

fn strange(line: &str) -> String {
    let mut start: String = line.chars().take(60).collect();
    if start.len() < line.len() {
        start.push('…');
    }
    format!("the line {start:?} is not understood")
}
