//! What Slurm says of the elements of an array. Pure.

use std::collections::BTreeMap;

use super::command::Sizes;

/// Elements of an array where Slurm does not say how many it takes.
const USUAL: usize = 1000;
/// Elements at most, whatever Slurm takes: each array has files of its own that are looked at all the time.
const MOST: usize = 5000;

/// Elements as one line of squeue has them; those that wait are told together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Number of the array.
    pub(super) array: u64,
    /// Number of the element as a job of its own; for those that wait, of one of them.
    pub(super) job: u64,
    /// Which elements.
    pub(super) elements: Vec<u32>,
    /// Slurm's word, `RUNNING`.
    pub(super) state: String,
    /// How often it was begun anew; `None` where Slurm does not say.
    pub(super) restarts: Option<u32>,
    /// Exit status, or 128 and the signal; `None` before the end.
    pub(super) exit: Option<i32>,
    /// Where; `None` for what waits.
    pub(super) node: Option<String>,
    /// Slurm's word for why; `None` for none.
    pub(super) reason: Option<String>,
}

/// Where an element is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It will be begun, for the first time or again.
    Waits,
    /// It has a node.
    Runs,
    /// Nothing more comes of it.
    Ended,
}

impl Seen {
    pub(super) fn life(&self) -> Life {
        match self.state.as_str() {
            "PENDING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => Life::Waits,
            "COMPLETED" | "FAILED" | "NODE_FAIL" | "TIMEOUT" | "OUT_OF_MEMORY" | "CANCELLED" | "PREEMPTED"
            | "BOOT_FAIL" | "DEADLINE" | "REVOKED" => Life::Ended,
            _ => Life::Runs,
        }
    }

    /// Why it ended, when that was not by itself; for people.
    pub(super) fn ending(&self) -> Option<String> {
        let text = match (self.state.as_str(), self.exit) {
            ("COMPLETED", _) => return None,
            ("NODE_FAIL", _) => "its node failed".to_owned(),
            ("TIMEOUT", _) => "it reached its time limit (`slurm.time`)".to_owned(),
            ("OUT_OF_MEMORY", _) => "its node's memory for it was used up".to_owned(),
            ("FAILED", Some(code)) if code > 0 => format!("exit status {code}"),
            (state, _) => match &self.reason {
                Some(reason) => format!("{state} ({reason})"),
                None => state.to_owned(),
            },
        };
        Some(text)
    }
}

/// Lines of squeue with the columns of [`super::command`]; those of other names are passed over. `Err` is a line that cannot be
/// read: what it is about may be in the queue.
pub(super) fn read(text: &str, name: &str) -> Result<Vec<Seen>, String> {
    let mut all = Vec::new();
    for text in text.lines().filter(|text| !text.trim().is_empty()) {
        let columns: Vec<&str> = text.split('|').map(str::trim).collect();
        let is_other = columns.get(7).is_some_and(|named| *named != name) && !text.contains(name);
        if !is_other {
            all.push(line(&columns, name).ok_or_else(|| crate::text::printable(text, 300))?);
        }
    }
    Ok(all)
}

fn line(columns: &[&str], name: &str) -> Option<Seen> {
    let [array, job, elements, state, restarts, exit, node, named, reason, ..] = columns else { return None };
    if *named != name || state.is_empty() {
        return None;
    }
    let ended = wait_status(exit.parse().ok()?);
    let mut seen = Seen {
        array: array.parse().ok()?,
        job: job.parse().ok()?,
        elements: Vec::new(),
        state: (*state).to_owned(),
        restarts: restarts.parse().ok(),
        exit: None,
        node: some(node),
        reason: reasons(reason),
    };
    // Of those that were taken out of the queue while they waited, Slurm does not say any more which they were.
    let is_rest = seen.life() == Life::Ended && *elements == "N/A";
    seen.elements = if is_rest { Vec::new() } else { numbers(elements)? };
    seen.exit = (seen.life() == Life::Ended).then_some(ended);
    if seen.life() == Life::Runs {
        // Why it had waited.
        seen.reason = None;
    }
    Some(seen)
}

fn some(text: &str) -> Option<String> {
    let is_there = !text.is_empty() && text != "(null)" && text != "N/A";
    is_there.then(|| crate::text::printable(text, 200))
}

/// Elements that are told together may have several.
fn reasons(text: &str) -> Option<String> {
    let all: Vec<&str> = text.split(',').map(str::trim).filter(|reason| *reason != "None").collect();
    some(&all.join(", "))
}

/// As `wait` gives it.
fn wait_status(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

/// `7`, `1-5,7`, `[1-30%4]`; `None` for what is not all numbers.
fn numbers(text: &str) -> Option<Vec<u32>> {
    let list = text.trim_matches(['[', ']']).split('%').next().unwrap_or_default();
    let range = |word: &str| -> Option<Vec<u32>> {
        let (range, step) = word.split_once(':').unwrap_or((word, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        let is_sane = first <= last && last - first < 10_000_000;
        is_sane.then(|| (first..=last).step_by(step.parse::<usize>().unwrap_or(1).max(1)).collect())
    };
    let all: Option<Vec<Vec<u32>>> = list.split(',').map(range).collect();
    all.map(|all| all.concat())
}

/// Lines of `sacct --parsable2`: `JobID|State|ExitCode|NodeList|JobName`.
pub(super) fn read_accounts(text: &str, name: &str) -> Vec<Seen> {
    let line = |line: &str| {
        let columns: Vec<&str> = line.split('|').collect();
        let [id, state, exit, node, named] = columns.as_slice() else { return None };
        let (array, element) = id.split_once('_')?;
        if *named != name {
            return None;
        }
        // `CANCELLED by 1000`.
        let state = state.split(' ').next().unwrap_or_default().to_owned();
        let (code, signal) = exit.split_once(':')?;
        let (code, signal): (i32, i32) = (code.parse().ok()?, signal.parse().ok()?);
        let mut seen = Seen {
            array: array.parse().ok()?,
            job: array.parse().ok()?,
            elements: numbers(element)?,
            state,
            restarts: None,
            exit: None,
            node: some(node).filter(|node| node != "None assigned"),
            reason: None,
        };
        seen.exit = (seen.life() == Life::Ended).then_some(if signal > 0 { 128 + signal } else { code });
        Some(seen)
    };
    text.lines().filter_map(line).collect()
}

/// Each element by its number, as it was seen last.
pub(super) fn by_element(all: &[Seen]) -> BTreeMap<u32, &Seen> {
    all.iter().flat_map(|seen| seen.elements.iter().map(move |&element| (element, seen))).collect()
}

/// Are all nodes that `sinfo --Node --format=%P|%N` gives, of the default partition alone where none was named, among the lines
/// of `nodes`? Not when there is none.
pub(super) fn is_covered(sinfo: &str, is_named: bool, nodes: &str) -> bool {
    let nodes: Vec<&str> = nodes.lines().map(str::trim).collect();
    let lines = sinfo.lines().filter_map(|line| line.trim().split_once('|'));
    let ours: Vec<&str> =
        lines.filter(|(partition, _)| is_named || partition.ends_with('*')).map(|(_, node)| node).collect();
    !ours.is_empty() && ours.iter().all(|node| nodes.contains(node))
}

/// From `scontrol show config`.
pub(super) fn sizes(text: &str) -> Sizes {
    let number = |name: &str| -> Option<usize> {
        let line = text.lines().find(|line| line.split('=').next().unwrap_or_default().trim() == name)?;
        line.split_once('=')?.1.split_whitespace().next()?.parse().ok()
    };
    // Numbers of elements are below `MaxArraySize`. Half of all jobs are left for others.
    let array = number("MaxArraySize").map_or(USUAL, |most| most.saturating_sub(1));
    let jobs = number("MaxJobCount").map_or(USUAL, |most| most / 2);
    Sizes { elements: array.min(jobs).clamp(1, MOST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "vptest-0123456789ab-0123456789abcdef";

    #[test]
    fn the_queue_is_read() {
        let text = format!(
            "8|10|2|FAILED|0|18944|n2|{NAME}|NonZeroExitCode|\n8|9|1|RUNNING|1|0|n1|{NAME}|Priority|\n\
             8|8|[3-5,7%2]|PENDING|0|0||{NAME}|Resources,None|\n9|9|1|RUNNING|0|0|n1|other|None|\n\n"
        );
        let seen = read(&text, NAME).unwrap();
        assert_eq!(seen.len(), 3);
        let by = by_element(&seen);
        assert_eq!(by.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 7]);
        assert_eq!((by[&2].life(), by[&2].exit), (Life::Ended, Some(74)));
        assert_eq!(by[&2].ending().unwrap(), "exit status 74");
        assert_eq!((by[&1].life(), by[&1].exit, by[&1].restarts), (Life::Runs, None, Some(1)));
        assert_eq!(by[&1].reason, None);
        assert_eq!((by[&4].life(), by[&4].node.as_deref()), (Life::Waits, None));
        assert_eq!(by[&4].reason.as_deref(), Some("Resources"));
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_an_empty_queue() {
        assert_eq!(read("", NAME), Ok(Vec::new()));
        let rest = read(&format!("8|8|N/A|CANCELLED|0|0||{NAME}|None|"), NAME).unwrap();
        assert!(rest.iter().all(|seen| seen.elements.is_empty()) && rest.len() == 1, "{rest:?}");
        for bad in ["nonsense", "8|9|1|RUNNING", "8|9|1-3,...|PENDING|0|0||NAME|None|", "8|9|1||0|0||NAME|None|"] {
            let text = format!("8|8|2|RUNNING|0|0|n1|{NAME}|None|\n{}\n", bad.replace("NAME", NAME));
            assert!(read(&text, NAME).is_err(), "{bad}");
        }
    }

    #[test]
    fn accounts_are_read() {
        let text = format!(
            "8_1|COMPLETED|0:0|n1|{NAME}\n8_2|CANCELLED by 0|0:15|n2|{NAME}\n8_[3-4]|PENDING|0:0|None assigned|{NAME}\n"
        );
        let seen = read_accounts(&text, NAME);
        let by = by_element(&seen);
        assert_eq!((by[&1].life(), by[&1].ending()), (Life::Ended, None));
        assert_eq!((by[&2].state.as_str(), by[&2].exit), ("CANCELLED", Some(143)));
        assert_eq!((by[&4].life(), by[&4].node.as_deref()), (Life::Waits, None));
    }

    #[test]
    fn a_partition_without_a_node_that_is_used_is_known() {
        let text = "main*|n1\nmain*|n2\nother|n3\n";
        assert!(is_covered(text, false, "n2\nn1\n") && !is_covered(text, false, "n1\nn3\n"));
        assert!(!is_covered(text, true, "n1\nn2\n") && !is_covered("", true, "n1\n"));
    }

    #[test]
    fn arrays_are_as_large_as_slurm_takes_them() {
        let config = "MaxArraySize            = 1001\nMaxJobCount             = 10000\n";
        assert_eq!(sizes(config).elements, 1000);
        assert_eq!(sizes("MaxArraySize = 100001\nMaxJobCount = 100\n").elements, 50);
        assert_eq!(sizes("").elements, 1000);
    }
}
