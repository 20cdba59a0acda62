//! A thread that reads the counters of this kernel and its network stacks: at once, at an interval, and at the end.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::kernel::{Depth, KernelReader};
use super::place::{Place, PlacePlan, Times};
use super::stack::{StackPlan, StackReader};
use super::value::Reading;
use super::{Counted, PlaceCounted};
use crate::host::clock::now_ns;

/// Values of all series together, about; beyond, every other reading is dropped and the interval doubled.
const BUDGET: usize = 16_384;
/// Bounds of the number of readings.
pub(super) const READINGS: [usize; 2] = [32, 512];

/// What is to be read.
#[derive(Debug, Clone)]
pub(super) struct SamplerPlan {
    pub(super) places: Vec<PlacePlan>,
    /// The place whose kernel this is; `None` where that is not looked at.
    pub(super) kernel: Option<usize>,
    pub(super) stacks: Vec<StackPlan>,
    /// `None` for no series.
    pub(super) interval: Option<Duration>,
    /// Names that are metrics besides those of the lists.
    pub(super) extra: Vec<String>,
}

/// A thread at work. Dropping it lets it end by itself.
#[derive(Debug)]
pub(super) struct Sampler {
    /// When the last reading was asked for.
    stop: Sender<Instant>,
    thread: JoinHandle<Counted>,
}

impl Sampler {
    /// Starts; when this returns, the first reading was made.
    ///
    /// # Errors
    /// When a namespace cannot be entered, or no thread can be started.
    pub(super) fn start(plan: SamplerPlan) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let (ready, begun) = sync_channel(1);
        let work = move || {
            let mut work = match Work::begin(plan) {
                Ok(work) => work,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return Counted::default();
                }
            };
            let _ = ready.send(Ok(()));
            work.run(&stopped);
            work.finish()
        };
        let thread = std::thread::Builder::new().name("vptest-counters".to_owned()).spawn(work)?;
        begun.recv().map_err(|_| io::Error::other("the thread that reads counters ended early"))??;
        Ok(Self { stop, thread })
    }

    /// Asks for the last reading, which is then made at once.
    pub(super) fn stop_soon(&self) {
        // Nobody hears it when the thread has panicked, which `finish` tells.
        let _ = self.stop.send(Instant::now());
    }

    /// Waits for the last reading. Blocks.
    pub(super) fn finish(self) -> io::Result<Counted> {
        self.stop_soon();
        self.thread.join().map_err(|_| io::Error::other("the thread that reads counters panicked"))
    }
}

struct Work {
    kernel: Option<(usize, KernelReader)>,
    stacks: Vec<StackReader>,
    places: Vec<Place>,
    begun: Instant,
    interval: Option<Duration>,
    times: Times,
    most: usize,
}

impl Times {
    /// A reading of the series came this much too late: the number of those that were due meanwhile, which are missed.
    fn late(&mut self, late: Duration, interval: Duration) -> u32 {
        let missed = u32::try_from(late.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
        self.missed += u64::from(missed);
        self.latest_us = self.latest_us.max(micros(late));
        missed
    }
}

impl Work {
    fn begin(plan: SamplerPlan) -> io::Result<Self> {
        let kernel = plan.kernel.map(|place| (place, KernelReader::open()));
        let mut stacks = plan.stacks.into_iter().map(StackReader::open).collect::<io::Result<Vec<_>>>()?;
        let (begun, first_ns) = (Instant::now(), now_ns());
        let readings = read(kernel.as_ref(), &mut stacks, plan.places.len(), Depth::Full);
        let series = plan.interval.is_some();
        let places = plan.places.into_iter().zip(readings);
        let places: Vec<Place> =
            places.map(|(place, reading)| Place::new(place, &plan.extra, reading, series)).collect();
        let tracks: usize = places.iter().map(Place::series).sum();
        // Even, so that after thinning the next one comes when it is due.
        let most = (BUDGET / tracks.max(1)).clamp(READINGS[0], READINGS[1]) & !1;
        let times = Times { interval_ms: None, times_us: vec![0], first_ns, missed: 0, latest_us: 0, cpu_ns: None };
        Ok(Self { kernel, stacks, places, begun, interval: plan.interval, times, most })
    }

    /// Reads at the interval until it is told to stop.
    fn run(&mut self, stopped: &Receiver<Instant>) {
        let Some(mut interval) = self.interval else {
            let _ = stopped.recv();
            return;
        };
        let mut number = 1_u32;
        loop {
            let due = self.begun + interval * number;
            match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {}
                // The last reading takes the place of one that was due before it was asked for.
                Ok(asked) => {
                    self.times.late(asked.saturating_duration_since(due), interval);
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let late = due.elapsed();
            self.sample(Depth::Series);
            let missed = self.times.late(late, interval);
            number = number.saturating_add(1).saturating_add(missed);
            if self.times.times_us.len() >= self.most {
                self.places.iter_mut().for_each(Place::thin);
                self.times.times_us = std::mem::take(&mut self.times.times_us).into_iter().step_by(2).collect();
                interval *= 2;
                number = number.div_ceil(2);
            }
        }
        self.interval = Some(interval);
    }

    fn sample(&mut self, depth: Depth) {
        self.times.times_us.push(micros(self.begun.elapsed()));
        let readings = read(self.kernel.as_ref(), &mut self.stacks, self.places.len(), depth);
        for (place, reading) in self.places.iter_mut().zip(readings) {
            match depth {
                Depth::Series => place.take(&reading),
                Depth::Full => place.end(reading),
            }
        }
    }

    fn finish(mut self) -> Counted {
        self.sample(Depth::Full);
        let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
        self.times.cpu_ns = clock.ok().and_then(|time| u64::try_from(Duration::from(time).as_nanos()).ok());
        self.times.interval_ms = self.interval.map(|interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
        let mut counted = Counted::default();
        for place in self.places {
            counted.problems.extend(place.problems(self.times.missed));
            let (place, totals) = place.finish(self.times.clone());
            counted.places.push(PlaceCounted { place, totals });
        }
        counted
    }
}

/// Reads everything, and sorts it by place.
fn read(
    kernel: Option<&(usize, KernelReader)>,
    stacks: &mut [StackReader],
    places: usize,
    depth: Depth,
) -> Vec<Reading> {
    let mut readings: HashMap<usize, Reading> = HashMap::new();
    // Stacks first: what the kernel's own files cost to read then disturbs them less.
    for stack in stacks {
        for (place, source, read) in stack.read(depth) {
            readings.entry(place).or_default().add(source, read);
        }
    }
    if let Some((place, kernel)) = kernel {
        for (source, read) in kernel.read(depth) {
            readings.entry(*place).or_default().add(source, read);
        }
    }
    (0..places).map(|place| readings.remove(&place).unwrap_or_default()).collect()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_that_were_due_when_the_end_came_are_missed() {
        let interval = Duration::from_millis(10);
        let times = Times { interval_ms: None, times_us: vec![0], first_ns: 0, missed: 0, latest_us: 0, cpu_ns: None };
        let mut work = Work {
            kernel: None,
            stacks: Vec::new(),
            places: Vec::new(),
            begun: Instant::now(),
            interval: Some(interval),
            times,
            most: 32,
        };
        let (stop, stopped) = channel();
        // The thread sees it only now: 35 ms after the beginning, when those of 10, 20 and 30 ms were not made.
        stop.send(work.begun + Duration::from_millis(35)).unwrap();
        work.run(&stopped);
        assert_eq!((work.times.missed, work.times.latest_us), (2, 25_000));
    }

    #[test]
    fn an_end_before_the_next_reading_is_due_misses_none() {
        let mut times =
            Times { interval_ms: None, times_us: vec![0], first_ns: 0, missed: 0, latest_us: 0, cpu_ns: None };
        assert_eq!(times.late(Duration::ZERO, Duration::from_millis(10)), 0);
        assert_eq!(times.late(Duration::from_millis(9), Duration::from_millis(10)), 0);
        assert_eq!((times.missed, times.latest_us), (0, 9_000));
    }
}
