//! What the two processes print: one JSON text a line, first that they are ready, at last what they saw.
//!
//! It comes from nodes, so nothing of it is believed before it was checked.

use serde::{Deserialize, Serialize};

use super::clock::{ClockFacts, KernelState};

/// The largest number that the store holds.
const MOST: u64 = i64::MAX.unsigned_abs();

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The reflector is ready on this port; the sender has begun.
    Ready { port: u16 },
    /// The sender's last.
    Sender(Box<SenderReport>),
    /// The reflector's last.
    Reflector(Box<ReflectorReport>),
}

/// Numbers that grow slowly, stored as differences.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Steps(pub(super) Vec<i64>);

impl Serialize for Steps {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let before = std::iter::once(0).chain(self.0.iter().copied());
        serializer.collect_seq(self.0.iter().zip(before).map(|(&this, before)| this.wrapping_sub(before)))
    }
}

impl<'de> Deserialize<'de> for Steps {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut all = Vec::<i64>::deserialize(deserializer)?;
        let mut at = 0_i64;
        for step in &mut all {
            at = at.wrapping_add(*step);
            *step = at;
        }
        Ok(Self(all))
    }
}

/// What both have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndReport {
    /// Packets that the socket had no room for.
    pub(super) dropped: u64,
    /// Packets of others.
    pub(super) foreign: u64,
    /// Packets that could not be sent, and why not the last of them.
    pub(super) errors: u64,
    pub(super) last_error: Option<String>,
    /// Arrivals beyond what a report holds.
    pub(super) unlisted: u64,
    pub(super) sent_stamped_late: u64,
    pub(super) received_stamped_late: u64,
    pub(super) clock: ClockFacts,
}

/// What the sender saw. Packets have places from 0; times are in nanoseconds of its wall clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SenderReport {
    pub(super) slots: u64,
    pub(super) missed: u64,
    pub(super) refused: u64,
    /// It had sent all it may before it was asked to end.
    pub(super) limited: bool,
    pub(super) sent: Steps,
    /// After its slot, for each packet.
    pub(super) late: Vec<u64>,
    /// Place of the packet that was answered; the following three lists are as long.
    pub(super) answered: Steps,
    /// The answer's own number.
    pub(super) number: Steps,
    pub(super) received: Steps,
    /// Time at the reflector, as the answer says it.
    pub(super) held: Steps,
    pub(super) end: EndReport,
}

/// What the reflector saw. Answers have numbers from 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReflectorReport {
    /// Place of the packet that arrived, for each answer; the following two lists are as long.
    pub(super) place: Steps,
    pub(super) received: Steps,
    pub(super) sent: Steps,
    /// Numbers of answers that could not be sent.
    pub(super) unsent: Vec<u64>,
    pub(super) end: EndReport,
}

/// The last line of an output, if it is whole and a line of ours.
pub(super) fn last(output: &[u8]) -> Option<Line> {
    let whole = output.strip_suffix(b"\n")?;
    serde_json::from_slice(whole.rsplit(|&byte| byte == b'\n').next()?).ok()
}

/// Port of the first line; `None` as long as it is not there.
pub(super) fn ready(output: &[u8]) -> Option<u16> {
    let end = output.iter().position(|&byte| byte == b'\n')?;
    match serde_json::from_slice(&output[..end]).ok()? {
        Line::Ready { port } => Some(port),
        _ => None,
    }
}

impl SenderReport {
    /// Do the lists belong together?
    pub(super) fn sound(&self) -> bool {
        let answers = self.answered.0.len();
        self.late.len() == self.sent.0.len()
            && [&self.number, &self.received, &self.held].iter().all(|list| list.0.len() == answers)
            && [self.slots, self.missed, self.refused].iter().all(|&count| count <= MOST)
            && self.end.sound()
            && self.slots_told() == Some(self.slots)
    }
}

impl SenderReport {
    fn slots_told(&self) -> Option<u64> {
        (self.sent.0.len() as u64).checked_add(self.missed)?.checked_add(self.end.errors)
    }
}

impl EndReport {
    /// Are the numbers such as the store holds?
    fn sound(&self) -> bool {
        let counts = [
            self.dropped,
            self.foreign,
            self.errors,
            self.unlisted,
            self.sent_stamped_late,
            self.received_stamped_late,
            self.clock.step_ns,
        ];
        let states = [self.clock.before, self.clock.after];
        // The bounds of two clocks are added.
        let sound = |state: &KernelState| state.max_error_ns <= MOST / 2 && state.estimated_error_ns <= MOST / 2;
        counts.iter().all(|&count| count <= MOST) && states.iter().flatten().all(sound)
    }
}

impl ReflectorReport {
    /// As [`SenderReport::sound`].
    pub(super) fn sound(&self) -> bool {
        let answers = self.place.0.len();
        [&self.received, &self.sent].iter().all(|list| list.0.len() == answers)
            && self.unsent.is_sorted_by(|a, b| a < b)
            && self.unsent.last().is_none_or(|&last| last < answers as u64)
            && self.end.sound()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_found_when_they_are_whole() {
        assert_eq!(ready(b"{\"ready\":{\"port\":7}}"), None, "it may go on");
        assert_eq!(ready(b"{\"ready\":{\"port\":7}}\nx"), Some(7));
        assert_eq!(ready(b"{\"ready\":{\"port\":70000}}\n"), None);
        assert_eq!(last(b"{\"ready\":{\"port\":7}}\n"), Some(Line::Ready { port: 7 }));
        assert_eq!(last(b"{\"ready\":{\"port\":7}}\n{\"sender\":{"), None);
        assert_eq!(last(b""), None);
    }

    proptest! {
        #[test]
        fn steps_bring_the_numbers_back(all in prop::collection::vec(any::<i64>(), 0..50)) {
            let text = serde_json::to_string(&Steps(all.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Steps>(&text).unwrap(), Steps(all));
        }
    }
}
