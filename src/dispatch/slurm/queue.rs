//! What Slurm says of the elements of an array. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::command::Sizes;

/// Elements of an array where Slurm does not say how many it takes.
const USUAL: usize = 1000;
/// Elements at most, whatever Slurm takes: each array has files of its own that are looked at all the time.
const MOST: usize = 5000;
/// How much earlier than it was asked to Slurm may tell an element that its time is nearly over: a minute by its manual, and it
/// looks twice a minute.
const EARLY: Duration = Duration::from_secs(90);
/// The signal that Slurm writes for want of memory, as far as it fits where signals are kept. No process was sent it.
const NO_MEMORY: i32 = 125;

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
    /// Exit status, or 128 and the signal; `None` before the end, and where Slurm names none.
    pub(super) exit: Option<i32>,
    /// Where; `None` for what waits.
    pub(super) node: Option<String>,
    /// Slurm's word for why; `None` for none.
    pub(super) reason: Option<String>,
    /// How long it has or had its node; `None` where Slurm does not say.
    pub(super) used: Option<Duration>,
    /// How long it may; `None` for no limit, or where Slurm does not say.
    pub(super) limit: Option<Duration>,
    /// Is it the accounts' word? The queue has forgotten it by then.
    pub(super) is_account: bool,
}

/// What Slurm ends an element for, and would again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bound {
    /// Its time, where it is known.
    Time(Option<Duration>),
    /// Its memory.
    Memory,
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
            ("TIMEOUT", _) => Bound::Time(self.limit).to_string(),
            ("OUT_OF_MEMORY", _) => Bound::Memory.to_string(),
            ("FAILED", Some(code)) if code > 0 => format!("exit status {code}"),
            (state, _) => match &self.reason {
                Some(reason) => format!("{state} ({reason})"),
                None => state.to_owned(),
            },
        };
        Some(text)
    }

    /// What it was ended for and would be again, without its worker's last word.
    pub(super) fn bound(&self) -> Option<Bound> {
        match self.state.as_str() {
            "TIMEOUT" => Some(Bound::Time(self.limit)),
            "OUT_OF_MEMORY" => Some(Bound::Memory),
            _ => None,
        }
    }

    /// Was its time nearly over, so that Slurm may have told it to end `before` its limit?
    pub(super) fn was_warned(&self, before: impl Fn(Duration) -> Duration) -> Option<Bound> {
        if ["PREEMPTED", "CANCELLED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REVOKED"].contains(&self.state.as_str()) {
            return None;
        }
        let (used, limit) = self.used.zip(self.limit)?;
        (used + before(limit) + EARLY >= limit).then_some(Bound::Time(Some(limit)))
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Time(Some(limit)) => {
                let minutes = limit.as_secs().div_ceil(60);
                write!(f, "ended by Slurm's time limit of {minutes} min; raise `slurm.time`")
            }
            Self::Time(None) => write!(f, "ended by Slurm's time limit; raise `slurm.time`"),
            Self::Memory => write!(f, "it used up the memory that Slurm gives it (OUT_OF_MEMORY)"),
        }
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
    let [array, job, elements, state, restarts, exit, node, named, reason, used, limit, ..] = columns else {
        return None;
    };
    if *named != name || state.is_empty() {
        return None;
    }
    let ended = exit_of(exit)?;
    let mut seen = Seen {
        array: array.parse().ok()?,
        job: job.parse().ok()?,
        elements: Vec::new(),
        state: (*state).to_owned(),
        restarts: restarts.parse().ok(),
        exit: None,
        node: some(node),
        reason: reasons(reason),
        used: time(used),
        limit: time(limit),
        is_account: false,
    };
    // Of those that were taken out of the queue while they waited, Slurm does not say any more which they were.
    let is_rest = seen.life() == Life::Ended && *elements == "N/A";
    seen.elements = if is_rest { Vec::new() } else { numbers(elements)? };
    seen.exit = ended.filter(|_| seen.life() == Life::Ended);
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

/// Slurm's exit code, as `wait` gives it or, since Slurm 23.02, `CODE:SIGNAL`. The outer `None` for what is neither.
fn exit_of(text: &str) -> Option<Option<i32>> {
    if text.is_empty() {
        // Newer ones say nothing where there is none.
        return Some(None);
    }
    let (code, signal) = match text.split_once(':') {
        Some((code, signal)) => (code.parse().ok()?, signal.parse().ok()?),
        None => {
            let status: i32 = text.parse().ok()?;
            ((status >> 8) & 0xff, status & 0x7f)
        }
    };
    Some(match (code, signal) {
        (code, 0) => Some(code),
        (_, NO_MEMORY) => None,
        (_, signal) => Some(128 + signal),
    })
}

/// `1:01`, `2-03:04:05`; `None` for what is no time, such as `UNLIMITED`.
fn time(text: &str) -> Option<Duration> {
    let (days, rest) = text.split_once('-').unwrap_or(("0", text));
    let parts: Option<Vec<u64>> = rest.split(':').map(|part| part.parse().ok()).collect();
    let seconds = match parts?.as_slice() {
        [minutes, seconds] => minutes * 60 + seconds,
        [hours, minutes, seconds] => hours * 3600 + minutes * 60 + seconds,
        _ => return None,
    };
    Some(Duration::from_secs(days.parse::<u64>().ok()? * 24 * 3600 + seconds))
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

/// Lines of `sacct --parsable2`: `JobID|State|ExitCode|NodeList|JobName|ElapsedRaw|TimelimitRaw`, of what has ended. Whatever
/// else they have is the queue's to say: in accounts, elements that were cancelled alone wait forever, and the line of those that
/// wait (`8_[3-9]`) lags behind. Elements that have a line of their own come last, so that these count.
pub(super) fn read_accounts(text: &str, name: &str) -> Vec<Seen> {
    let line = |line: &str| {
        let columns: Vec<&str> = line.split('|').collect();
        let [id, state, exit, node, named, used, limit] = columns.as_slice() else { return None };
        let (array, element) = id.split_once('_')?;
        if *named != name {
            return None;
        }
        // `CANCELLED by 1000`.
        let state = state.split(' ').next().unwrap_or_default().to_owned();
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let seen = Seen {
            array: array.parse().ok()?,
            job: array.parse().ok()?,
            elements: numbers(element)?,
            state,
            restarts: None,
            exit: exit_of(exit)?,
            node: some(node).filter(|node| node != "None assigned"),
            reason: None,
            used: used.parse().ok().map(Duration::from_secs),
            limit: limit.parse().ok().map(minutes),
            is_account: true,
        };
        (seen.life() == Life::Ended).then_some((!element.starts_with('['), seen))
    };
    let mut all: Vec<(bool, Seen)> = text.lines().filter_map(line).collect();
    all.sort_by_key(|(is_alone, _)| *is_alone);
    all.into_iter().map(|(_, seen)| seen).collect()
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

/// What scontrol says when it has changed what could be changed of an array: a line for each kind of elements
/// (`8_1-4: Job has already finished`, `8_5-6: No error`). Elements that run or have ended cannot be changed, and need not be.
pub(super) fn was_changed(said: &str) -> bool {
    const FINE: &[&str] = &[
        "No error",
        "no longer pending",
        "already completing",
        "already finished",
        "not pending nor running",
        "Invalid job id",
    ];
    let mut lines = said.lines().filter(|line| !line.trim().is_empty()).peekable();
    lines.peek().is_some() && lines.all(|line| FINE.iter().any(|words| line.contains(words)))
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
            "8|10|2|FAILED|0|18944|n2|{NAME}|NonZeroExitCode|0:07|10:00|\n8|9|1|RUNNING|1|0|n1|{NAME}|Priority|1:02|10:00|\n\
             8|8|[3-5,7%2]|PENDING|0|0||{NAME}|Resources,None|0:00|10:00|\n9|9|1|RUNNING|0|0|n1|other|None|0:01|10:00|\n\n"
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
        let rest = read(&format!("8|8|N/A|CANCELLED|0|0||{NAME}|None|0:00|10:00|"), NAME).unwrap();
        assert!(rest.iter().all(|seen| seen.elements.is_empty()) && rest.len() == 1, "{rest:?}");
        for bad in [
            "nonsense",
            "8|9|1|RUNNING",
            "8|9|1-3,...|PENDING|0|0||NAME|None|0:00|10:00|",
            "8|9|1||0|0||NAME|None|0:00|10:00|",
            "8|9|1|FAILED|0|x|n1|NAME|None|0:00|10:00|",
        ] {
            let text = format!("8|8|2|RUNNING|0|0|n1|{NAME}|None|0:00|10:00|\n{}\n", bad.replace("NAME", NAME));
            assert!(read(&text, NAME).is_err(), "{bad}");
        }
    }

    #[test]
    fn exit_codes_of_older_and_newer_slurm_are_read() {
        for (old, new, exit) in
            [("0", "0:0", Some(0)), ("18944", "74:0", Some(74)), ("9", "0:9", Some(137)), ("253", "0:125", None)]
        {
            assert_eq!((exit_of(old), exit_of(new)), (Some(exit), Some(exit)), "{old}");
        }
        assert_eq!(exit_of(""), Some(None));
        assert!(["x", "1:", ":1", "1:x"].iter().all(|bad| exit_of(bad).is_none()));
    }

    #[test]
    fn times_are_read() {
        let seconds = |text| time(text).map(|time| time.as_secs());
        assert_eq!(
            (seconds("1:01"), seconds("10:00:00"), seconds("2-00:00:05")),
            (Some(61), Some(36000), Some(172_805))
        );
        assert!(["UNLIMITED", "INVALID", "NOT_SET", "", "7"].iter().all(|bad| time(bad).is_none()));
    }

    /// What Slurm 22.05 said of arrays that ended in these ways, with limits and nodes as they were.
    #[test]
    fn real_endings_are_told_as_what_they_are() {
        let of = |state: &str, exit: &str, reason: &str, used: &str| {
            let line = format!("32|32|1|{state}|0|{exit}|n1|{NAME}|{reason}|{used}|1:00|");
            read(&line, NAME).unwrap().remove(0)
        };
        let time = of("TIMEOUT", "9", "TimeLimit", "1:01");
        assert_eq!(time.bound(), Some(Bound::Time(Some(Duration::from_secs(60)))));
        assert_eq!(time.ending().unwrap(), "ended by Slurm's time limit of 1 min; raise `slurm.time`");
        let memory = of("OUT_OF_MEMORY", "253", "OutOfMemory", "0:03");
        assert_eq!((memory.bound(), memory.exit), (Some(Bound::Memory), None));
        assert_eq!(memory.ending().unwrap(), "it used up the memory that Slurm gives it (OUT_OF_MEMORY)");
        assert_eq!(of("NODE_FAIL", "0", "NodeDown", "0:09").ending().unwrap(), "its node failed");
        assert_eq!(of("PREEMPTED", "15", "None", "0:06").ending().unwrap(), "PREEMPTED");
        assert_eq!(of("FAILED", "1792", "NonZeroExitCode", "0:01").ending().unwrap(), "exit status 7");
        assert_eq!(of("COMPLETING", "0", "TimeLimit", "1:01").life(), Life::Runs);
        assert!(
            ["NODE_FAIL", "PREEMPTED", "FAILED"].iter().all(|state| of(state, "0", "None", "0:01").bound().is_none())
        );
    }

    #[test]
    fn an_end_shortly_before_the_limit_is_the_limits() {
        let used = |used| read(&format!("8|8|1|COMPLETED|0|0|n1|{NAME}|None|{used}|20:00|"), NAME).unwrap().remove(0);
        let warned = |text| used(text).was_warned(|_| Duration::from_secs(120));
        assert_eq!(warned("16:29"), None);
        assert_eq!(warned("16:31"), Some(Bound::Time(Some(Duration::from_secs(1200)))));
        let unlimited = read(&format!("8|8|1|COMPLETED|0|0|n1|{NAME}|None|16:31|UNLIMITED|"), NAME).unwrap().remove(0);
        assert_eq!(unlimited.was_warned(|_| Duration::from_secs(120)), None);
    }

    /// As sacct 22.05 said it, but for the names.
    #[test]
    fn accounts_are_read() {
        let text = format!(
            "8_1|COMPLETED|0:0|n1|{NAME}|4|10\n8_2|CANCELLED by 0|0:15|n2|{NAME}|2|10\n8_4|COMPLETED|0:0|n1|{NAME}|3|10\n\
             8_5|TIMEOUT|0:0|n1|{NAME}|601|10\n8_6|OUT_OF_MEMORY|0:125|n2|{NAME}|1|UNLIMITED\n8_7|REQUEUED|0:0|n2|{NAME}|9|10\n\
             8_8|RUNNING|0:0|n2|{NAME}|9|10\n8_9|NODE_FAIL|0:0|n2|{NAME}|9|Partition_Limit\n8_[4-6,10]|PENDING|0:0|None assigned|{NAME}|0|10\n"
        );
        let seen = read_accounts(&text, NAME);
        let by = by_element(&seen);
        assert_eq!(
            by.keys().copied().collect::<Vec<_>>(),
            [1, 2, 4, 5, 6, 9],
            "what waits or runs is the queue's to say"
        );
        assert_eq!((by[&1].life(), by[&1].ending()), (Life::Ended, None));
        assert_eq!((by[&2].state.as_str(), by[&2].exit), ("CANCELLED", Some(143)));
        assert_eq!(by[&4].state, "COMPLETED");
        assert_eq!(by[&5].bound(), Some(Bound::Time(Some(Duration::from_secs(600)))));
        assert_eq!((by[&6].bound(), by[&6].exit, by[&6].limit), (Some(Bound::Memory), None, None));
        assert_eq!((by[&9].state.as_str(), by[&9].limit), ("NODE_FAIL", None));
        assert!(read_accounts(&text, "other").is_empty());
    }

    #[test]
    fn a_line_of_many_in_accounts_does_not_hide_those_that_have_their_own() {
        let text =
            format!("14_2|COMPLETED|0:0|n1|{NAME}|4|10\n14_[1-5]|CANCELLED by 0|0:0|None assigned|{NAME}|0|10\n");
        let seen = read_accounts(&text, NAME);
        let by = by_element(&seen);
        assert_eq!((by[&2].state.as_str(), by[&3].state.as_str()), ("COMPLETED", "CANCELLED"));
        assert_eq!(by[&3].node, None);
    }

    #[test]
    fn a_partition_without_a_node_that_is_used_is_known() {
        let text = "main*|n1\nmain*|n2\nother|n3\n";
        assert!(is_covered(text, false, "n2\nn1\n") && !is_covered(text, false, "n1\nn3\n"));
        assert!(!is_covered(text, true, "n1\nn2\n") && !is_covered("", true, "n1\n"));
    }

    /// As scontrol 22.05 said it.
    #[test]
    fn what_cannot_be_changed_of_an_array_any_more_is_no_failure() {
        assert!(was_changed("1_1-2: Job is no longer pending execution\n1_3-6: No error\n"));
        assert!(was_changed(
            "1_1-3: Job has already finished\n1_4: Job is no longer pending execution\n1_5-6: No error\n"
        ));
        assert!(was_changed("Invalid job id specified for job 77\n"));
        assert!(!was_changed("1_1-2: Access/permission denied\n1_3-6: No error\n") && !was_changed(""));
    }

    #[test]
    fn arrays_are_as_large_as_slurm_takes_them() {
        let config = "MaxArraySize            = 1001\nMaxJobCount             = 10000\n";
        assert_eq!(sizes(config).elements, 1000);
        assert_eq!(sizes("MaxArraySize = 100001\nMaxJobCount = 100\n").elements, 50);
        assert_eq!(sizes("").elements, 1000);
    }
}
