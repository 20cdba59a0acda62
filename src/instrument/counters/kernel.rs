//! The counters of a whole kernel: CPUs, interrupts, memory, and what only some machines have.

use std::fs;
use std::path::Path;

use super::lists::in_series;
use super::text;
use super::value::{Counter, Read, Unit};
use crate::host::cpus;
use crate::host::perf::{HARDWARE, PerfCounter, PerfEvent, SOFTWARE};

/// Where KVM counts what its guests make it do. Source: Linux `Documentation/virt/kvm/api.rst`, debugfs.
const KVM: &str = "/sys/kernel/debug/kvm";
const CPUS: &str = "/sys/devices/system/cpu";
/// Longest file that is read.
const LIMIT: u64 = 16 << 20;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Everything.
    Full,
    /// What the series need.
    Series,
}

impl Depth {
    pub(super) fn wants(self, source: &str) -> bool {
        self == Self::Full || in_series(source)
    }
}

/// Reads this kernel.
#[derive(Debug)]
pub(super) struct KernelReader {
    ticks: Option<u32>,
    hardware: Result<Vec<PerfCounter>, String>,
    software: Result<Vec<PerfCounter>, String>,
}

impl KernelReader {
    pub(super) fn open() -> Self {
        let ticks = crate::instrument::host::ticks_per_second();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
        let ticks = ticks.map(|ticks| ticks as u32).filter(|ticks| *ticks > 0);
        let cpus = online();
        Self { ticks, hardware: perf(&HARDWARE, &cpus), software: perf(&SOFTWARE, &cpus) }
    }

    /// Everything that it says, by source.
    pub(super) fn read(&self, depth: Depth) -> Vec<(&'static str, Read)> {
        let full = depth == Depth::Full;
        let file = |path: &str, parse: &dyn Fn(&str) -> Read| {
            read_file(path).and_then(|text| parse(&text).map_err(|why| format!("{path}: {why}")))
        };
        let ticks = self.ticks.ok_or_else(|| "the length of a clock tick is not known".to_owned());
        let sources: [(&'static str, &dyn Fn() -> Read); 12] = [
            ("stat", &|| file("/proc/stat", &|text| text::stat(text, ticks.clone()?, full))),
            ("softirqs", &|| file("/proc/softirqs", &|text| text::softirqs(text, full))),
            ("softnet", &|| file("/proc/net/softnet_stat", &|text| text::softnet(text, full))),
            ("meminfo", &|| file("/proc/meminfo", &text::meminfo)),
            ("vmstat", &|| file("/proc/vmstat", &text::vmstat)),
            ("interrupts", &|| file("/proc/interrupts", &text::interrupts)),
            ("entropy", &|| file("/proc/sys/kernel/random/entropy_avail", &entropy)),
            ("frequency", &frequency),
            ("throttling", &throttling),
            ("cgroup", &crate::instrument::host::cgroup_counters),
            ("kvm", &kvm),
            ("perf", &|| count(self.hardware.as_ref())),
        ];
        let mut all: Vec<_> =
            sources.iter().filter(|(name, _)| depth.wants(name)).map(|(name, read)| (*name, read())).collect();
        if depth.wants("perf_software") {
            all.push(("perf_software", count(self.software.as_ref())));
        }
        all
    }
}

/// A text file of the kernel, or why it cannot be read.
pub(super) fn read_file(path: &str) -> Result<String, String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| format!("cannot read {path}: {error}");
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > LIMIT {
        return Err(format!("{path} is longer than {LIMIT} bytes"));
    }
    Ok(text)
}

fn entropy(text: &str) -> Read {
    let bits = text.trim().parse().map_err(|_| format!("{:?} is no number", text.trim()))?;
    Ok(vec![Counter::gauge("entropy", bits).in_unit(Unit::Bit)])
}

/// CPUs that are on; without the list, those that may be used.
fn online() -> Vec<usize> {
    let list = read_file("/sys/devices/system/cpu/online").ok().and_then(|text| cpu_list(text.trim()));
    list.or_else(cpus::usable).unwrap_or_default()
}

/// A list such as `0-3,8`; `None` for anything else.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > 1 << 16 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

fn perf(events: &[PerfEvent], cpus: &[usize]) -> Result<Vec<PerfCounter>, String> {
    let open = |event: &PerfEvent| {
        PerfCounter::open(*event, cpus).map_err(|error| format!("perf_event_open({}): {error}", event.name))
    };
    // One that is refused: the others may be there.
    any_of(events.iter().map(open))
}

/// Those that there are; why the first is not there when none is.
fn any_of<T>(all: impl Iterator<Item = Result<T, String>>) -> Result<Vec<T>, String> {
    let (there, missing): (Vec<_>, Vec<_>) = all.partition(Result::is_ok);
    match (there.is_empty(), missing.into_iter().find_map(Result::err)) {
        (true, Some(why)) => Err(why),
        _ => Ok(there.into_iter().flatten().collect()),
    }
}

fn count(counters: Result<&Vec<PerfCounter>, &String>) -> Read {
    let one = |counter: &PerfCounter| {
        let value = counter.read().map_err(|error| format!("{}: {error}", counter.event.name))?;
        Ok(Counter::grows(format!("perf.{}", counter.event.name), value))
    };
    // One that had no turn on the hardware: the others had.
    any_of(counters.map_err(Clone::clone)?.iter().map(one))
}

/// Frequency of each CPU that has a driver for it, and their mean.
fn frequency() -> Read {
    let mut all = Vec::new();
    for (name, cpu) in cpu_directories()? {
        let Ok(text) = read_file(&format!("{cpu}/cpufreq/scaling_cur_freq")) else { continue };
        let khz = text.trim().parse().map_err(|_| format!("{cpu}/cpufreq: {:?} is no number", text.trim()))?;
        all.push(Counter::gauge(format!("{name}.frequency"), khz).in_unit(Unit::Kilohertz));
    }
    if all.is_empty() {
        return Err("no CPU has cpufreq".to_owned());
    }
    let mean = all.iter().map(|counter| counter.value).sum::<u64>() / all.len() as u64;
    all.push(Counter::gauge("cpu.frequency", mean).in_unit(Unit::Kilohertz));
    Ok(all)
}

/// Throttling events of cores and packages; a package counts once for each of its CPUs.
fn throttling() -> Read {
    let (mut sums, mut seen) = ([0_u64; 2], [0_u64; 2]);
    for (_, cpu) in cpu_directories()? {
        for (at, name) in ["core", "package"].into_iter().enumerate() {
            let path = format!("{cpu}/thermal_throttle/{name}_throttle_count");
            let Some(count) = read_file(&path).ok().and_then(|text| text.trim().parse::<u64>().ok()) else { continue };
            sums[at] = sums[at].wrapping_add(count);
            seen[at] += 1;
        }
    }
    let counters = ["throttle.core", "throttle.package"].into_iter().zip(sums).zip(seen).filter(|(_, seen)| *seen > 0);
    let all: Vec<_> = counters.map(|((name, sum), seen)| Counter::grows(name, sum).of(seen)).collect();
    if all.is_empty() { Err("no CPU counts throttling".to_owned()) } else { Ok(all) }
}

fn cpu_directories() -> Result<Vec<(String, String)>, String> {
    let entries = fs::read_dir(CPUS).map_err(|error| format!("cannot read {CPUS}: {error}"))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut cpus: Vec<_> = names
        .filter(|name| name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok()))
        .map(|name| (name.clone(), format!("{CPUS}/{name}")))
        .collect();
    cpus.sort();
    Ok(cpus)
}

/// What KVM counts over all guests of this kernel.
fn kvm() -> Read {
    kvm_in(Path::new(KVM))
}

fn kvm_in(directory: &Path) -> Read {
    let entries = fs::read_dir(directory).map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
    let mut all = Vec::new();
    for entry in entries.flatten() {
        let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
        if !kind.is_file() {
            continue;
        }
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        if let Ok(value) = text.trim().parse() {
            all.push(Counter::grows(format!("kvm.{name}"), value));
        }
    }
    if all.is_empty() { Err(format!("{} has no counters", directory.display())) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(cpu_list("0-2,8"), Some(vec![0, 1, 2, 8]));
        assert_eq!((cpu_list(""), cpu_list("3-1"), cpu_list("0-9999999")), (None, None, None));
    }

    #[test]
    fn one_that_is_missing_does_not_take_the_others_with_it() {
        let no = |why: &str| Err::<u32, _>(why.to_owned());
        assert_eq!(any_of([no("a"), Ok(1), Ok(2)].into_iter()), Ok(vec![1, 2]));
        assert_eq!(any_of([no("a"), no("b")].into_iter()), Err("a".to_owned()));
        assert_eq!(any_of(std::iter::empty::<Result<u32, String>>()), Ok(Vec::new()));
    }

    #[test]
    fn counters_of_kvm_are_files() {
        let directory = tempfile::tempdir().unwrap();
        assert!(kvm_in(directory.path()).is_err());
        fs::write(directory.path().join("exits"), "12\n").unwrap();
        fs::write(directory.path().join("strange"), "x\n").unwrap();
        fs::create_dir(directory.path().join("1234-5")).unwrap();
        assert_eq!(kvm_in(directory.path()).unwrap(), [Counter::grows("kvm.exits", 12)]);
        assert!(kvm_in(&directory.path().join("none")).is_err());
    }

    #[test]
    fn this_kernel_is_read() {
        let reader = KernelReader::open();
        let read = reader.read(Depth::Full);
        for source in ["stat", "softirqs", "softnet", "meminfo", "vmstat"] {
            let found = read.iter().find(|(name, _)| *name == source).map(|(_, read)| read);
            assert!(found.is_some_and(|read| read.as_ref().is_ok_and(|all| all.len() > 2)), "{source}: {found:?}");
        }
        assert!(reader.read(Depth::Series).len() < read.len());
    }
}
