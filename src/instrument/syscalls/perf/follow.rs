//! Adds up what the records say, in the order of time.

use std::collections::{BTreeMap, HashMap};

use super::super::log::{ENTRY, Writer};
use super::super::tally::{self, NO_CALL, Process, Tally};
use super::record::{Kind, Record};
use crate::ids::NodeId;

/// Added to the numbers of the 32-bit ABI.
const OTHER_ABI: u16 = 0x1000;

/// Which threads count, and where they belong.
pub(super) struct Rules {
    /// The process whose calls are left out: vptest itself.
    pub(super) own: u32,
    /// The nodes by the inode of their network namespaces.
    pub(super) nodes: Vec<(u64, NodeId)>,
    /// The node of all, where there is none of several.
    pub(super) place: Option<NodeId>,
}

/// A thread that lives.
#[derive(Clone)]
struct Thread {
    name: [u8; 16],
    network: Option<u64>,
    /// Place in `processes`; `None` before its first call under its name.
    process: Option<usize>,
    previous: u16,
    sequence: u64,
    count: u64,
    inside: Option<Inside>,
    /// How often something was lost when it was last seen.
    losses: u64,
}

#[derive(Clone, Copy)]
struct Inside {
    call: u16,
    at: u64,
    process: u32,
}

/// Everything so far.
pub(super) struct Following {
    rules: Rules,
    classes: Vec<u8>,
    threads: HashMap<u32, Thread>,
    numbers: BTreeMap<(Option<NodeId>, [u8; 16]), usize>,
    processes: Vec<(Option<NodeId>, String, Process)>,
    losses: u64,
    /// Steps that are not known since something before them is lost.
    pub(super) lost_steps: u64,
    /// Calls of threads that have no number here.
    pub(super) lost_calls: u64,
    /// Records that were lost, as the rings say.
    pub(super) lost_records: u64,
    /// Returns of which it is not known to what they belong.
    pub(super) lost_returns: u64,
    log: Option<Writer>,
    failed: Option<std::io::Error>,
}

impl Following {
    pub(super) fn new(rules: Rules, log: Option<Writer>) -> Self {
        let mut classes = vec![0; 1024];
        for (number, class) in tally::classes() {
            classes[usize::from(number)] |= class;
        }
        Self {
            rules,
            classes,
            threads: HashMap::new(),
            numbers: BTreeMap::new(),
            processes: Vec::new(),
            losses: 0,
            lost_steps: 0,
            lost_calls: 0,
            lost_records: 0,
            lost_returns: 0,
            log,
            failed: None,
        }
    }

    /// A thread that was there before.
    pub(super) fn know(&mut self, thread: u32, name: [u8; 16], network: Option<u64>) {
        self.threads.insert(thread, Thread::new(name, network, self.losses));
    }

    pub(super) fn take(&mut self, record: &Record) {
        match record.kind {
            // Outside vptest's PID namespace all threads have this number: whose step and whose return it is, is not known.
            Kind::Begins { thread: 0, .. } => self.lost_calls += 1,
            Kind::Returns { thread: 0, .. } => self.lost_returns += 1,
            Kind::Named { thread: 0, .. } | Kind::Began { thread: 0, .. } | Kind::Ended { thread: 0 } => {}
            Kind::Begins { process, thread, number, other_abi } if process != self.rules.own => {
                // As the kernel's tables have it: ten bits.
                let number = u16::try_from(number & 0x3ff).unwrap_or_default();
                self.begins(process, thread, if other_abi { number | OTHER_ABI } else { number }, record.at);
            }
            Kind::Returns { process, thread, result } if process != self.rules.own => {
                self.returns(thread, result, record.at);
            }
            Kind::Begins { .. } | Kind::Returns { .. } => {}
            Kind::Named { thread, name } => self.named(thread, name),
            Kind::Began { thread, parent, .. } => {
                let (name, network) = self.threads.get(&parent).map_or(([0; 16], None), |p| (p.name, p.network));
                self.end(thread);
                self.threads.insert(thread, Thread::new(name, network, self.losses));
            }
            Kind::Ended { thread } => self.end(thread),
            Kind::Network { thread, inode } => {
                if let Some(thread) = self.threads.get_mut(&thread) {
                    thread.network = Some(inode);
                }
            }
            Kind::Lost { records } => {
                self.losses += 1;
                self.lost_records += records;
            }
        }
    }

    fn begins(&mut self, task: u32, number: u32, call: u16, at: u64) {
        let losses = self.losses;
        let thread = self.threads.entry(number).or_insert_with(|| Thread::new([0; 16], None, losses));
        let place = match thread.process {
            Some(place) => place,
            None => {
                let node = self.rules.node(thread.network);
                let next = self.processes.len();
                let place = *self.numbers.entry((node, thread.name)).or_insert(next);
                if place == next {
                    self.processes.push((node, tally::comm(&thread.name), Process::default()));
                }
                thread.process = Some(place);
                place
            }
        };
        let process = &mut self.processes[place].2;
        if thread.losses == losses {
            *process.steps.entry((thread.previous, call)).or_default() += 1;
        } else {
            // What came before is not known, so neither is this step.
            thread.losses = losses;
            self.lost_steps += 1;
            *process.begun.entry(call).or_default() += 1;
        }
        thread.sequence = tally::mixed(thread.sequence.wrapping_add(u64::from(call) + 1));
        thread.count += 1;
        thread.previous = call;
        thread.inside = Some(Inside { call, at, process: task });
    }

    fn returns(&mut self, number: u32, result: i64, at: u64) {
        let Some(thread) = self.threads.get_mut(&number) else { return };
        let (Some(inside), Some(place)) = (thread.inside.take(), thread.process) else { return };
        if thread.losses != self.losses {
            // It may be that of a later call.
            self.lost_returns += 1;
            return;
        }
        let class = self.classes.get(usize::from(inside.call)).copied().unwrap_or_default();
        let took = at.saturating_sub(inside.at);
        self.processes[place].2.returned(inside.call, class, took, result);
        if let Some(log) = &mut self.log {
            let numbers = [number, inside.process, u32::try_from(place).unwrap_or(u32::MAX), inside.call.into()];
            if let Err(error) = log.entry(&entry([inside.at, took, result.cast_unsigned()], numbers)) {
                self.failed.get_or_insert(error);
            }
        }
        if thread.process.is_some_and(|place| self.numbers.get(&(self.processes[place].0, thread.name)) != Some(&place))
        {
            self.processes[place].2.end_sequence(thread.sequence, thread.count);
            thread.begin();
        }
    }

    /// A name that is given while a call runs (`execve`, `prctl`) counts from its return on.
    fn named(&mut self, number: u32, name: [u8; 16]) {
        let losses = self.losses;
        let thread = self.threads.entry(number).or_insert_with(|| Thread::new(name, None, losses));
        thread.name = name;
        if let (Some(place), None) = (thread.process, thread.inside) {
            self.processes[place].2.end_sequence(thread.sequence, thread.count);
            thread.begin();
        }
    }

    fn end(&mut self, number: u32) {
        let Some(thread) = self.threads.remove(&number) else { return };
        let Some(place) = thread.process else { return };
        self.processes[place].2.end_sequence(thread.sequence, thread.count);
        if let (Some(log), Some(inside)) = (&mut self.log, thread.inside) {
            let numbers = [number, inside.process, u32::try_from(place).unwrap_or(u32::MAX), inside.call.into()];
            if let Err(error) = log.entry(&entry([inside.at, u64::MAX, 0], numbers)) {
                self.failed.get_or_insert(error);
            }
        }
    }

    /// What was counted; the log is finished.
    pub(super) fn finish(mut self) -> std::io::Result<(Tally, Option<Log>)> {
        for thread in self.threads.values() {
            if let Some(place) = thread.process {
                self.processes[place].2.end_sequence(thread.sequence, thread.count);
            }
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        let node = |node: &Option<NodeId>| node.map(|node| node.to_string()).unwrap_or_default();
        let names = (0..).zip(&self.processes).map(|(n, (of, name, _))| (n, name.clone(), node(of))).collect();
        let mut tally = Tally::default();
        for (node, name, process) in self.processes {
            tally.process(node, &name).add(process);
        }
        Ok((tally, self.log.map(|log| (log, names))))
    }
}

/// A log, and its processes: number, name, node.
type Log = (Writer, Vec<(u32, String, String)>);

impl Rules {
    fn node(&self, network: Option<u64>) -> Option<NodeId> {
        if self.nodes.is_empty() {
            return self.place;
        }
        self.nodes.iter().find(|(inode, _)| Some(*inode) == network).map(|(_, node)| *node)
    }
}

impl Thread {
    const fn new(name: [u8; 16], network: Option<u64>, losses: u64) -> Self {
        let (process, inside) = (None, None);
        Self { name, network, process, previous: NO_CALL, sequence: 0, count: 0, inside, losses }
    }

    const fn begin(&mut self) {
        (self.process, self.previous, self.sequence, self.count) = (None, NO_CALL, 0, 0);
    }
}

/// A call as the log has it.
fn entry(longs: [u64; 3], words: [u32; 4]) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    let parts = longs.iter().flat_map(|n| n.to_le_bytes()).chain(words.iter().flat_map(|n| n.to_le_bytes()));
    bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: i64 = 0;

    fn call(of: &mut Following, thread: u32, at: u64) {
        let begins = Kind::Begins { process: thread, thread, number: READ, other_abi: false };
        of.take(&Record { at, kind: begins });
        of.take(&Record { at: at + 5, kind: Kind::Returns { process: thread, thread, result: 1 } });
    }

    #[test]
    fn calls_of_threads_without_a_number_are_lost_and_never_mixed() {
        let mut of = Following::new(Rules { own: 7, nodes: Vec::new(), place: None }, None);
        of.take(&Record { at: 0, kind: Kind::Named { thread: 9, name: *b"one\0\0\0\0\0\0\0\0\0\0\0\0\0" } });
        call(&mut of, 9, 10);
        call(&mut of, 0, 20);
        call(&mut of, 0, 30);
        call(&mut of, 7, 40);
        assert_eq!((of.lost_calls, of.lost_returns, of.lost_steps), (2, 2, 0));
        let counted = of.finish().unwrap().0.into_record();
        let calls: Vec<u64> = counted.iter().map(|process| process.calls).collect();
        assert_eq!(calls, [1]);
    }
}
