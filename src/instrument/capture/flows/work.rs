//! The analysis of a group of capture points: their packets in order of time, each through its point's engine and the
//! matchers of the paths it is on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::collect::Collected;
use super::spool::{Cursor, MAX_FRAME, Next, Spool, Spooled};
use crate::flow::{Beyond, Engine, Matched, Matcher, Point, Traced};
use crate::instrument::capture::reader::now_ns;
use crate::instrument::capture::thread::panic_text;
use crate::packet::{LinkType, Segment, Time};

/// Chunks are handed over a second and a half after their first packet at the latest: what a point has not handed over
/// until then, it has not seen.
const LAG_NS: i64 = 3_000_000_000;

/// How strictly packets are taken in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// A point that has handed over nothing is waited for, up to [`LAG_NS`], and as long as it takes where the packets are
    /// on another node.
    Ordered,
    /// Nobody is waited for: no more will come, or there is no more room.
    Forced,
}

/// The engine of one point.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) engine: Engine<Collected>,
    pub(super) beyond: Beyond,
    pub(super) link: LinkType,
    /// Packets until the fault that a test asks for.
    pub(super) fault_after: Option<u64>,
}

impl Running {
    #[inline]
    fn packet(&mut self, packet: &Spooled<'_>, data: &[u8], segment: &mut Segment) -> Option<Traced> {
        if let Some(left) = &mut self.fault_after {
            *left = left.checked_sub(1).expect("a fault was asked for");
        }
        let at = Time::from_nanos(packet.at_ns);
        let traced = self.engine.observe(at, packet.wire_len, data, self.link, segment)?;
        self.beyond.packet(at, packet.wire_len, segment, &traced);
        Some(traced)
    }
}

/// What an engine has come to.
#[derive(Debug)]
pub(super) enum State {
    Running(Box<Running>),
    /// It died, of this.
    Failed(String),
}

/// A point of the group.
#[derive(Debug)]
pub(super) struct PointWork {
    pub(super) state: State,
    /// Places among the group's paths, and which end this is.
    paths: Vec<(usize, Point)>,
    cursor: Option<Cursor>,
    has_ended: bool,
    /// Time of the last packet taken.
    last_ns: i64,
    /// May its packets come however late?
    late: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) points: Vec<PointWork>,
    /// `None` when it died.
    matchers: Vec<Option<Matcher>>,
    /// Near and far point of each.
    ends: Vec<[usize; 2]>,
    /// Frames of which less was kept than captured.
    frame: Box<[u8]>,
}

impl Work {
    pub(super) fn new(engines: Vec<Running>, late: &[bool], paths: Vec<([usize; 2], Matcher)>) -> Self {
        let of = |point: usize| {
            let each = paths.iter().enumerate().flat_map(move |(i, ([near, far], _))| {
                [(i, Point::Near, *near), (i, Point::Far, *far)].into_iter().filter(move |end| end.2 == point)
            });
            each.map(|(i, end, _)| (i, end)).collect()
        };
        let point = |(i, running)| PointWork {
            state: State::Running(Box::new(running)),
            paths: of(i),
            cursor: None,
            has_ended: false,
            last_ns: i64::MIN,
            late: late[i],
        };
        let points = engines.into_iter().enumerate().map(point).collect();
        let (ends, matchers) = paths.into_iter().map(|(ends, matcher)| (ends, Some(matcher))).unzip();
        Self { points, matchers, ends, frame: vec![0; MAX_FRAME].into_boxed_slice() }
    }

    /// Takes about `most` packets off the spool and says how many: 0 when there is nothing to do now.
    pub(super) fn step(&mut self, spool: &Spool, most: usize, pace: Pace) -> usize {
        let mut done = 0;
        while done < most {
            self.refill(spool);
            let Some((point, until)) = self.next(pace) else { break };
            done += self.run(point, until, most - done);
            self.note_silence(point, pace);
        }
        done
    }

    fn refill(&mut self, spool: &Spool) {
        for (i, point) in self.points.iter_mut().enumerate() {
            while point.cursor.as_ref().is_none_or(|cursor| cursor.head_ns().is_none()) {
                if let Some(cursor) = point.cursor.take() {
                    spool.give_back(cursor.chunk);
                }
                match spool.pop(i) {
                    Next::Chunk(chunk) => point.cursor = Some(Cursor::new(chunk)),
                    Next::Nothing => break,
                    Next::End => {
                        point.has_ended = true;
                        break;
                    }
                }
            }
        }
    }

    /// The point whose packet is next, and up to when its packets can be taken.
    fn next(&self, pace: Pace) -> Option<(usize, i64)> {
        let head = |point: &PointWork| point.cursor.as_ref().and_then(Cursor::head_ns);
        let heads = || self.points.iter().enumerate().filter_map(|(i, point)| Some((head(point)?, i)));
        let (first_ns, first) = heads().min()?;
        if self.matchers.is_empty() {
            return Some((first, i64::MAX));
        }
        let others = heads().filter(|&(_, i)| i != first).map(|(ns, _)| ns).min().unwrap_or(i64::MAX);
        let late = |point: &PointWork| point.late && head(point).is_none() && !point.has_ended;
        if pace == Pace::Ordered && self.points.iter().any(late) {
            return None;
        }
        let waits = self.points.iter().any(|point| head(point).is_none() && !point.has_ended);
        let quiet = if waits && pace == Pace::Ordered { now_ns() - LAG_NS } else { i64::MAX };
        (first_ns <= quiet).then_some((first, others.min(quiet)))
    }

    /// Takes packets of one point up to a time, the first whatever its time is.
    fn run(&mut self, point: usize, until: i64, most: usize) -> usize {
        let mut done = 0;
        let Self { points, matchers, frame, .. } = self;
        let PointWork { state, paths, cursor, last_ns, .. } = &mut points[point];
        let Some(cursor) = cursor else { return 0 };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut segment = Segment::default();
            while done < most && cursor.head_ns().is_some_and(|head| done == 0 || head <= until) {
                let Some(packet) = cursor.advance() else { break };
                (done, *last_ns) = (done + 1, packet.at_ns);
                let State::Running(running) = state else { continue };
                let data = whole(&packet, frame);
                let Some(traced) = running.packet(&packet, data, &mut segment) else { continue };
                for &(path, end) in paths.iter() {
                    if let Some(matcher) = &mut matchers[path] {
                        matcher.packet(end, Time::from_nanos(packet.at_ns), traced.way, &segment);
                    }
                }
            }
        }));
        // What a panic has left half done is thrown away.
        if let Err(panic) = outcome {
            *state = State::Failed(panic_text(panic.as_ref()));
            paths.iter().for_each(|&(path, _)| matchers[path] = None);
        }
        done
    }

    /// A point that has nothing while another one is further has seen nothing until then, if it was waited for.
    fn note_silence(&mut self, point: usize, pace: Pace) {
        let at = Time::from_nanos(self.points[point].last_ns);
        for (ends, matcher) in self.ends.iter().zip(&mut self.matchers) {
            let (other, end) = match *ends {
                [near, far] if near == point => (far, Point::Far),
                [near, far] if far == point => (near, Point::Near),
                _ => continue,
            };
            let PointWork { cursor, has_ended, .. } = &self.points[other];
            if let (Some(matcher), None) = (matcher, cursor)
                && (*has_ended || pace == Pace::Ordered)
            {
                matcher.quiet(end, at);
            }
        }
    }

    /// What the matchers found; `None` for one that died.
    pub(super) fn finish_matchers(&mut self) -> Vec<Option<Matched>> {
        let finish = |matcher: Option<Matcher>| {
            let matcher = matcher?;
            catch_unwind(AssertUnwindSafe(|| matcher.finish())).ok()
        };
        std::mem::take(&mut self.matchers).into_iter().map(finish).collect()
    }
}

/// The frame as long as it was captured; beyond what was kept nobody looks.
fn whole<'a>(packet: &Spooled<'a>, frame: &'a mut [u8]) -> &'a [u8] {
    if packet.kept.len() == packet.captured {
        return packet.kept;
    }
    frame[..packet.kept.len()].copy_from_slice(packet.kept);
    &frame[..packet.captured]
}
