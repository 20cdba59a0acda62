//! The process on the client's node that sends probe packets and notes the answers.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::clock::Watch;
use super::report::{EndReport, Line, SenderReport, Steps};
use super::schedule::Schedule;
use super::socket::Socket;
use super::wait::Waiter;
use super::wire::{Kind, Nonce, Packet, ours, place};
use crate::host::clock::{monotonic_ns, wall_ns};

/// Packets read between two looks at the schedule.
const AT_ONCE: usize = 64;
/// Answers listed beyond one for each packet; more are counted only.
const EXTRA: usize = 1 << 16;
/// When all packets are answered, duplicates are waited for so many times the longest round trip, and at least so long.
const PATIENCE: (i64, i64) = (10, 50_000_000);

/// What to send.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// The reflector.
    pub to: SocketAddr,
    /// Address to send from.
    pub from: IpAddr,
    /// Name of the session.
    pub nonce: Nonce,
    /// Time between two packets.
    pub interval: Duration,
    /// Payload of each in bytes.
    pub size: usize,
    /// Differentiated services code point.
    pub dscp: u8,
    /// How long answers are waited for at the end.
    pub timeout: Duration,
    /// Most packets.
    pub limit: u32,
    /// Longest time until it ends by itself.
    pub life: Duration,
}

/// Sends until SIGTERM, the limit or the end of its life, waits for the last answers, and reports to `out`.
///
/// # Errors
/// When the socket cannot be used, or nobody reads the report.
pub fn send(options: &SendOptions, out: &mut impl Write) -> io::Result<()> {
    let waiter = Waiter::new()?;
    let socket = Socket::open(options.from, options.size, options.dscp)?;
    socket.connect(options.to)?;
    let begin = monotonic_ns()?;
    let mut sender = Sender {
        schedule: Schedule::new(begin, ns(options.interval)),
        packet: vec![0; options.size],
        options,
        socket,
        watch: Watch::begin()?,
        sent: Vec::new(),
        by_kernel: Vec::new(),
        late: Vec::new(),
        answered: Answers::default(),
        seen: Vec::new(),
        unanswered: 0,
        longest_ns: 0,
        last_sent: begin,
        counts: Counts::default(),
    };
    sender.turn(begin)?;
    writeln!(out, "{}", serde_json::to_string(&Line::Ready { port: sender.socket.port()? })?)?;
    out.flush()?;
    let limited = sender.run(begin, &waiter)?;
    let report = sender.report(limited)?;
    writeln!(out, "{}", serde_json::to_string(&Line::Sender(Box::new(report)))?)?;
    out.flush()
}

struct Sender<'a> {
    options: &'a SendOptions,
    socket: Socket,
    schedule: Schedule,
    watch: Watch,
    packet: Vec<u8>,
    /// Departure of each packet.
    sent: Vec<i64>,
    /// Is that the kernel's time?
    by_kernel: Vec<bool>,
    late: Vec<u64>,
    answered: Answers,
    /// Was the packet answered?
    seen: Vec<bool>,
    unanswered: usize,
    longest_ns: i64,
    /// Monotonic.
    last_sent: i64,
    counts: Counts,
}

#[derive(Default)]
struct Answers {
    place: Vec<i64>,
    number: Vec<i64>,
    received: Vec<i64>,
    held: Vec<i64>,
}

#[derive(Default)]
struct Counts {
    foreign: u64,
    errors: u64,
    last_error: Option<String>,
    refused: u64,
    unlisted: u64,
    received_stamped_late: u64,
}

impl Sender<'_> {
    /// Returns whether it ended before it was asked to.
    fn run(&mut self, begin: i64, waiter: &Waiter) -> io::Result<bool> {
        let limit = usize::try_from(self.options.limit).unwrap_or(usize::MAX);
        let life = begin.saturating_add(ns(self.options.life));
        let mut stopping = false;
        let mut limited = false;
        loop {
            let now = monotonic_ns()?;
            limited |= !stopping && (self.sent.len() >= limit || now >= life);
            stopping |= limited;
            let wait = if stopping {
                let end = self.end();
                if now >= end {
                    return Ok(limited);
                }
                end - now
            } else {
                self.turn(now)?;
                self.schedule.wait(monotonic_ns()?)
            };
            let asked = waiter.wait(&self.socket, wait)?;
            if asked && !stopping {
                self.schedule.close(monotonic_ns()?);
            }
            stopping |= asked;
            self.read()?;
        }
    }

    /// When there is nothing left to wait for, on the monotonic clock.
    fn end(&self) -> i64 {
        let timeout = ns(self.options.timeout);
        let patience = self.longest_ns.saturating_mul(PATIENCE.0).max(PATIENCE.1);
        self.last_sent.saturating_add(if self.unanswered == 0 { patience.min(timeout) } else { timeout })
    }

    /// Sends what is due.
    fn turn(&mut self, now: i64) -> io::Result<()> {
        let Some(late) = self.schedule.take(now) else { return Ok(()) };
        self.watch.look()?;
        let index = u32::try_from(self.sent.len()).map_err(io::Error::other)?;
        let sent_ns = wall_ns()?;
        let packet = Packet {
            kind: Kind::Request,
            nonce: self.options.nonce,
            sequence: self.options.nonce.first().wrapping_add(index),
            number: 0,
            sent_ns,
            received_ns: 0,
            answered_ns: 0,
        };
        packet.write(&mut self.packet);
        let late = late.saturating_add(monotonic_ns()?.saturating_sub(now).unsigned_abs());
        let mut result = self.socket.send(&self.packet);
        // It tells of an earlier packet, and nothing was sent.
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            self.counts.refused += 1;
            result = self.socket.send(&self.packet);
        }
        match result {
            Ok(()) => {
                self.sent.push(sent_ns);
                self.by_kernel.push(false);
                self.late.push(late);
                self.seen.push(false);
                self.unanswered += 1;
                self.last_sent = now;
            }
            Err(error) => {
                self.counts.errors += 1;
                self.counts.last_error = Some(error.to_string());
            }
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        for _ in 0..AT_ONCE {
            let (size, nonce) = (self.options.size, self.options.nonce);
            let received = match self.socket.receive() {
                Ok(Some(received)) => received,
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.counts.refused += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (at_ns, by_kernel) = (received.at_ns, received.by_kernel);
            match ours(received.bytes, size, Kind::Answer, nonce) {
                Some(packet) => self.note(&packet, at_ns, by_kernel),
                None => self.counts.foreign += 1,
            }
        }
        for _ in 0..AT_ONCE {
            let (size, nonce) = (self.options.size, self.options.nonce);
            let Some((bytes, at_ns)) = self.socket.departed()? else { break };
            let Some(packet) = ours(bytes, size, Kind::Request, nonce) else { continue };
            let index = place(packet.sequence, nonce.first()) as usize;
            if let (Some(sent), Some(by_kernel)) = (self.sent.get_mut(index), self.by_kernel.get_mut(index)) {
                (*sent, *by_kernel) = (at_ns, true);
            }
        }
        Ok(())
    }

    fn note(&mut self, packet: &Packet, at_ns: i64, by_kernel: bool) {
        let index = place(packet.sequence, self.options.nonce.first());
        let Some(seen) = self.seen.get_mut(index as usize) else {
            self.counts.foreign += 1;
            return;
        };
        if !std::mem::replace(seen, true) {
            self.unanswered -= 1;
        }
        if self.answered.place.len() >= self.sent.len() + EXTRA {
            self.counts.unlisted += 1;
            return;
        }
        self.longest_ns = self.longest_ns.max(at_ns.saturating_sub(packet.sent_ns));
        self.counts.received_stamped_late += u64::from(!by_kernel);
        self.answered.place.push(index.into());
        self.answered.number.push(packet.number.into());
        self.answered.received.push(at_ns);
        self.answered.held.push(packet.answered_ns.wrapping_sub(packet.received_ns));
    }

    fn report(self, limited: bool) -> io::Result<SenderReport> {
        let Self { schedule, socket, watch, sent, by_kernel, late, answered, counts, .. } = self;
        Ok(SenderReport {
            slots: schedule.slots(),
            missed: schedule.missed(),
            refused: counts.refused,
            limited,
            sent: Steps(sent),
            late,
            answered: Steps(answered.place),
            number: Steps(answered.number),
            received: Steps(answered.received),
            held: Steps(answered.held),
            end: EndReport {
                dropped: socket.dropped()?,
                foreign: counts.foreign,
                errors: counts.errors,
                last_error: counts.last_error,
                unlisted: counts.unlisted,
                sent_stamped_late: by_kernel.iter().filter(|&&yes| !yes).count() as u64,
                received_stamped_late: counts.received_stamped_late,
                clock: watch.end()?,
            },
        })
    }
}

fn ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
