//! Reading the kernel's text files.

use std::fs;

use crate::record::CpuTime;

/// Clock ticks in a second (USER_HZ): `AT_CLKTCK` of the auxiliary vector; `None` when that cannot be read.
pub(in crate::instrument) fn ticks_per_second() -> Option<f64> {
    clock_ticks(&fs::read("/proc/self/auxv").ok()?)
}

/// Source: getauxval(3); entries are pairs of machine words.
fn clock_ticks(auxv: &[u8]) -> Option<f64> {
    const AT_CLKTCK: usize = 17;
    const WORD: usize = size_of::<usize>();
    let word = |bytes: &[u8]| Some(usize::from_ne_bytes(bytes.try_into().ok()?));
    let entry = auxv.chunks_exact(2 * WORD).find(|entry| word(&entry[..WORD]) == Some(AT_CLKTCK))?;
    let ticks = word(&entry[WORD..])?;
    (ticks > 0).then_some(ticks as f64)
}

/// The time of these CPUs together, from `/proc/stat`; of all CPUs for `None`. Not known when a line is missing: the CPU is off.
pub(super) fn cpu_time(stat: &str, ticks: f64, cpus: Option<&[usize]>) -> Option<CpuTime> {
    let line = |name: &str| stat.lines().find_map(|line| columns(line.strip_prefix(name)?.strip_prefix(' ')?, ticks));
    match cpus {
        None => line("cpu"),
        Some(cpus) => cpus.iter().map(|cpu| line(&format!("cpu{cpu}"))).reduce(|sum, more| Some(sum?.plus(&more?)))?,
    }
}

fn columns(line: &str, ticks: f64) -> Option<CpuTime> {
    let mut columns = line.split_ascii_whitespace().map(|text| Some(text.parse::<u64>().ok()? as f64 / ticks));
    let mut next = || columns.next().flatten();
    let (user, nice, system, idle) = (next()?, next()?, next()?, next()?);
    let (iowait, irq, softirq, steal) = (next()?, next()?, next()?, next()?);
    Some(CpuTime { user, nice, system, idle, iowait, irq, softirq, steal })
}

/// `None` when a column went backwards by more than a tick's rounding (idle and iowait may, says proc(5), by little):
/// a CPU was taken away.
pub(super) fn cpu_difference(before: &CpuTime, after: &CpuTime) -> Option<CpuTime> {
    let less = |pick: fn(&CpuTime) -> f64| {
        let difference = pick(after) - pick(before);
        (difference > -0.1).then_some(difference.max(0.0))
    };
    Some(CpuTime {
        user: less(|time| time.user)?,
        nice: less(|time| time.nice)?,
        system: less(|time| time.system)?,
        idle: less(|time| time.idle)?,
        iowait: less(|time| time.iowait)?,
        irq: less(|time| time.irq)?,
        softirq: less(|time| time.softirq)?,
        steal: less(|time| time.steal)?,
    })
}

/// The number after `name` in a file of `name number` lines.
pub(super) fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_line_is_read_in_seconds() {
        let stat = "cpu  100 1 50 900 7 2 3 5 11 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let time = cpu_time(stat, 100.0, None).unwrap();
        assert_eq!((time.user, time.idle, time.steal), (1.0, 9.0, 0.05));
        assert!((time.total() - 10.68).abs() < 1e-9);
        // Kernels before 2.6.11 have no steal column: not known, rather than 0.
        assert_eq!(cpu_time("cpu  100 1 50 900 7 2 3\n", 100.0, None), None);
        assert_eq!(cpu_time("cpu0 1 1 1 1 1 1 1 1 1 1\n", 100.0, None), None);
        assert_eq!(cpu_time("cpu  1 x 1 1 1 1 1 1\n", 100.0, None), None);
    }

    #[test]
    fn some_cpus_are_added_up() {
        let stat = "cpu  9 9 9 9 9 9 9 9\ncpu0 100 0 0 1 0 0 0 0\ncpu1 300 0 0 2 0 0 0 4\ncpu10 1 1 1 1 1 1 1 1\n";
        let time = cpu_time(stat, 100.0, Some(&[0, 1])).unwrap();
        assert_eq!((time.user, time.idle, time.steal), (4.0, 0.03, 0.04));
        assert_eq!(cpu_time(stat, 100.0, Some(&[0, 2])), None, "one of them is off");
        assert_eq!(cpu_time(stat, 100.0, Some(&[])), None);
    }

    #[test]
    fn a_cpu_that_was_taken_away_gives_no_difference() {
        let time = cpu_time("cpu  100 1 50 900 7 2 3 5\n", 100.0, None).unwrap();
        assert_eq!(cpu_difference(&time, &CpuTime { user: 0.5, ..time }), None);
        let back = cpu_difference(&time, &CpuTime { iowait: 0.05, user: 3.0, ..time }).unwrap();
        assert_eq!((back.iowait, back.user, back.idle), (0.0, 2.0, 0.0));
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "pswpin 3\npswpinx 4\nnr_throttled 17\n";
        let cases = [("pswpin", Some(3)), ("nr_throttled", Some(17)), ("pswp", None), ("pswpout", None)];
        for (name, expected) in cases {
            assert_eq!(counter(text, name), expected, "{name}");
        }
    }

    #[test]
    fn ticks_come_from_the_auxiliary_vector() {
        assert!(ticks_per_second().is_some_and(|ticks| ticks >= 1.0));
        let entries: Vec<u8> = [6_usize, 4096, 17, 250, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(clock_ticks(&entries), Some(250.0));
        assert_eq!(clock_ticks(&entries[..20]), None);
    }
}
