//! What the program's tables hold in the end.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues};

use super::super::tally::{Bins, Process, Tally, comm};
use super::super::{Options, TraceError};
use super::chain;
use crate::ids::NodeId;
use crate::record::SyscallLoss;

/// `struct calls` and `struct sizes`: four numbers and 128 bins of 32 bits.
type Row = [u64; 68];
/// `struct name`.
type NameKey = [u64; 3];
/// `struct thread`.
type ThreadRow = [u64; 80];
/// Where `sequence`, `count`, the steps (two numbers each) and the failures begin in it.
const SEQUENCE: usize = 2;
const COUNT: usize = 3;
const STEPS_AT: usize = 8;
const FAILURES_AT: usize = 72;

/// What was read.
pub(super) struct Tables {
    pub(super) tally: Tally,
    pub(super) losses: Vec<SyscallLoss>,
    names: Names,
}

impl Tables {
    pub(super) fn read(ebpf: &Ebpf, options: &Options) -> Result<Self, TraceError> {
        let reader = Reader { ebpf };
        let names = reader.names(options)?;
        Ok(Self { tally: reader.tally(&names)?, losses: reader.losses()?, names })
    }

    /// Number, name and node of each process name, for the log.
    pub(super) fn names_of_log(&self) -> Vec<(u32, String, String)> {
        let node = |node: &Option<NodeId>| node.map(|node| node.to_string()).unwrap_or_default();
        self.names.iter().map(|(id, (n, name))| (*id, name.clone(), node(n))).collect()
    }
}

struct Reader<'a> {
    ebpf: &'a Ebpf,
}

impl<'a> Reader<'a> {
    /// Numbers of names: node and name.
    fn names(&self, options: &Options) -> Result<Names, TraceError> {
        let map: HashMap<_, NameKey, u32> = self.map("names")?;
        let mut names = Names::new();
        for row in map.iter() {
            let (key, number) = row.map_err(read)?;
            let bytes = [key[0].to_ne_bytes(), key[1].to_ne_bytes()].concat();
            names.insert(number, (options.node_in(key[2] & u64::from(u32::MAX)), comm(&bytes)));
        }
        Ok(names)
    }

    fn tally(&self, names: &Names) -> Result<Tally, TraceError> {
        let mut tally = Tally::default();
        self.steps(&mut tally, names)?;
        self.calls(&mut tally, names)?;
        self.sizes(&mut tally, names)?;
        self.sequences(&mut tally, names)?;
        Ok(tally)
    }

    fn steps(&self, tally: &mut Tally, names: &Names) -> Result<(), TraceError> {
        let map: PerCpuHashMap<_, u64, u64> = self.map("steps")?;
        for row in map.iter() {
            let (key, counts) = row.map_err(read)?;
            let process = process(tally, names, part(key, 32, 32))?;
            let step = (short(part(key, 16, 16)), short(part(key, 0, 16)));
            *process.steps.entry(step).or_default() += counts.iter().sum::<u64>();
        }
        Ok(())
    }

    fn calls(&self, tally: &mut Tally, names: &Names) -> Result<(), TraceError> {
        let rows: HashMap<_, u32, u32> = self.map("call_rows")?;
        let map: PerCpuArray<_, Row> = self.map("calls")?;
        for row in rows.iter() {
            let (key, row) = row.map_err(read)?;
            let Some(values) = values(&map, row)? else { continue };
            let process = process(tally, names, u64::from(key >> 16))?;
            let call = process.calls.entry(short(u64::from(key & 0xffff))).or_default();
            for [returned, errors, total_ns, most_ns, bins @ ..] in values.iter() {
                call.returned += returned;
                call.errors += errors;
                call.total_ns += total_ns;
                call.most_ns = call.most_ns.max(*most_ns);
                add_bins(&mut call.bins, bins);
            }
        }
        let map: PerCpuHashMap<_, u64, u64> = self.map("errors")?;
        for row in map.iter() {
            let (key, counts) = row.map_err(read)?;
            let process = process(tally, names, part(key, 48, 16))?;
            let call = process.calls.entry(short(part(key, 32, 16))).or_default();
            let number = u32::try_from(part(key, 0, 32)).unwrap_or(u32::MAX);
            *call.by_error.entry(number).or_default() += counts.iter().sum::<u64>();
        }
        Ok(())
    }

    fn sizes(&self, tally: &mut Tally, names: &Names) -> Result<(), TraceError> {
        let rows: HashMap<_, u64, u32> = self.map("size_rows")?;
        let map: PerCpuArray<_, Row> = self.map("sizes")?;
        for row in rows.iter() {
            let (key, row) = row.map_err(read)?;
            let Some(values) = values(&map, row)? else { continue };
            let process = process(tally, names, part(key, 48, 16))?;
            let kind = u8::try_from(part(key, 0, 32)).unwrap_or(0);
            let sizes = process.sizes.entry((short(part(key, 32, 16)), kind)).or_default();
            for [count, bytes, most, zero, bins @ ..] in values.iter() {
                sizes.count += count;
                sizes.bytes += bytes;
                sizes.most = sizes.most.max(*most);
                sizes.zero += zero;
                add_bins(&mut sizes.bins, bins);
            }
        }
        Ok(())
    }

    /// Of threads that have ended, and of those that still live.
    fn sequences(&self, tally: &mut Tally, names: &Names) -> Result<(), TraceError> {
        let map: PerCpuHashMap<_, u32, [u64; 3]> = self.map("ended")?;
        for row in map.iter() {
            let (key, values) = row.map_err(read)?;
            let process = process(tally, names, u64::from(key))?;
            for [threads, sequence, _] in values.iter() {
                process.threads += threads;
                process.sequence = process.sequence.wrapping_add(*sequence);
            }
        }
        let places: Array<_, ThreadRow> = self.map("places")?;
        let others: HashMap<_, u32, ThreadRow> = self.map("threads")?;
        for row in places.iter().chain(others.iter().map(|row| row.map(|(_, thread)| thread))) {
            living(tally, names, &row.map_err(read)?)?;
        }
        Ok(())
    }

    fn losses(&self) -> Result<Vec<SyscallLoss>, TraceError> {
        let map: PerCpuArray<_, [u64; 6]> = self.map("lost")?;
        let values = map.get(&0, 0).map_err(read)?;
        let loss = |(cpu, [begun, returned, steps, errors, sizes, logged]): (u32, &[u64; 6])| SyscallLoss {
            cpu: Some(cpu),
            begun: *begun,
            returned: *returned,
            steps: *steps,
            errors: *errors,
            sizes: *sizes,
            logged: *logged,
        };
        Ok((0..).zip(values.iter()).map(loss).collect())
    }

    fn map<M>(&self, name: &str) -> Result<M, TraceError>
    where
        M: TryFrom<&'a aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.map(name).ok_or_else(|| TraceError::Read(format!("there is no table {name}")))?;
        M::try_from(map).map_err(read)
    }
}

/// Adds what a thread that still lives has not handed over.
fn living(tally: &mut Tally, names: &Names, row: &ThreadRow) -> Result<(), TraceError> {
    let head = row[0];
    if part(head, 0, 32) == 0 {
        return Ok(());
    }
    let process = process(tally, names, part(head, 32, 32))?;
    process.end_sequence(row[SEQUENCE], row[COUNT]);
    for step in row[STEPS_AT..FAILURES_AT].chunks_exact(2).filter(|step| part(step[0], 32, 32) > 0) {
        let key = part(step[0], 0, 32).wrapping_sub(1);
        let step_key = (short(part(key, 16, 16)), short(part(key, 0, 16)));
        *process.steps.entry(step_key).or_default() += part(step[0], 32, 32);
    }
    for failure in row[FAILURES_AT..].iter().filter(|failure| part(**failure, 32, 32) > 0) {
        let call = process.calls.entry(short(part(*failure, 16, 16))).or_default();
        let number = u32::from(short(part(*failure, 0, 16)));
        *call.by_error.entry(number).or_default() += part(*failure, 32, 32);
    }
    Ok(())
}

/// Those of all CPUs; `None` for a row beyond the table's end, of which nothing was counted.
fn values(map: &PerCpuArray<&MapData, Row>, row: u32) -> Result<Option<PerCpuValues<Row>>, TraceError> {
    match row.checked_sub(1).filter(|row| *row < map.len()) {
        Some(row) => map.get(&row, 0).map(Some).map_err(read),
        None => Ok(None),
    }
}

type Names = BTreeMap<u32, (Option<NodeId>, String)>;

fn process<'a>(tally: &'a mut Tally, names: &Names, number: u64) -> Result<&'a mut Process, TraceError> {
    let known = u32::try_from(number).ok().and_then(|number| names.get(&number));
    let (node, name) = known.ok_or_else(|| TraceError::Read(format!("process name {number} is not known")))?;
    Ok(tally.process(*node, name))
}

fn part(key: u64, shift: u32, bits: u32) -> u64 {
    (key >> shift) & ((1 << bits) - 1)
}

fn short(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Two bins of 32 bits in each number.
fn add_bins(bins: &mut Bins, packed: &[u64]) {
    for (pair, packed) in bins.0.chunks_exact_mut(2).zip(packed) {
        let bytes = packed.to_ne_bytes();
        for (bin, bytes) in pair.iter_mut().zip(bytes.chunks_exact(4)) {
            *bin += u64::from(u32::from_ne_bytes(bytes.try_into().expect("four bytes")));
        }
    }
}

fn read(error: impl std::error::Error) -> TraceError {
    TraceError::Read(chain(&error))
}
