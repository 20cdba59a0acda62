//! The process on the server's node that answers probe packets of one session, and nothing else.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::clock::Watch;
use super::report::{EndReport, Line, ReflectorReport, Steps};
use super::socket::Socket;
use super::wait::Waiter;
use super::wire::{Kind, Nonce, Packet, ours, place};
use crate::host::clock::{monotonic_ns, wall_ns};

/// Longest wait without a look at its own end.
const LOOK_NS: i64 = 500_000_000;
/// Packets read between two looks, and at last: somebody may send without end.
const AT_ONCE: usize = 256;
const AT_LAST: usize = 1 << 16;

/// What to answer.
#[derive(Debug, Clone)]
pub struct ReflectOptions {
    /// Address to listen on, and no other.
    pub on: IpAddr,
    /// Packets from elsewhere get no answer.
    pub from: IpAddr,
    /// Nor do those of other sessions.
    pub nonce: Nonce,
    /// Nor those of another size.
    pub size: usize,
    /// Differentiated services code point of answers.
    pub dscp: u8,
    /// Most answers.
    pub limit: u32,
    /// Longest time until it ends by itself.
    pub life: Duration,
}

/// Answers until SIGTERM or the end of its life, and reports to `out`.
///
/// # Errors
/// When the socket cannot be used, or nobody reads the report.
pub fn reflect(options: &ReflectOptions, out: &mut impl Write) -> io::Result<()> {
    let waiter = Waiter::new()?;
    let socket = Socket::open(options.on, options.size, options.dscp)?;
    writeln!(out, "{}", serde_json::to_string(&Line::Ready { port: socket.port()? })?)?;
    out.flush()?;
    let mut reflector = Reflector {
        answer: vec![0; options.size],
        options,
        socket,
        watch: Watch::begin()?,
        place: Vec::new(),
        received: Vec::new(),
        sent: Vec::new(),
        by_kernel: Vec::new(),
        unsent: Vec::new(),
        counts: Counts::default(),
    };
    reflector.run(&waiter)?;
    let report = reflector.report()?;
    writeln!(out, "{}", serde_json::to_string(&Line::Reflector(Box::new(report)))?)?;
    out.flush()
}

struct Reflector<'a> {
    options: &'a ReflectOptions,
    socket: Socket,
    watch: Watch,
    answer: Vec<u8>,
    place: Vec<i64>,
    received: Vec<i64>,
    sent: Vec<i64>,
    by_kernel: Vec<bool>,
    unsent: Vec<u64>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    foreign: u64,
    last_error: Option<String>,
    unlisted: u64,
    received_stamped_late: u64,
}

/// A request, and how to answer it.
struct Request {
    packet: Packet,
    from: SocketAddr,
    at_ns: i64,
    by_kernel: bool,
}

impl Reflector<'_> {
    fn run(&mut self, waiter: &Waiter) -> io::Result<()> {
        let life = i64::try_from(self.options.life.as_nanos()).unwrap_or(i64::MAX);
        let end = monotonic_ns()?.saturating_add(life);
        loop {
            let stop = waiter.wait(&self.socket, LOOK_NS)?;
            self.watch.look()?;
            let stop = stop || monotonic_ns()? >= end;
            for _ in 0..if stop { AT_LAST } else { AT_ONCE } {
                if !self.answer_one()? {
                    break;
                }
            }
            self.departures()?;
            if stop {
                return Ok(());
            }
        }
    }

    /// Answers the next packet; `false` when there is none.
    fn answer_one(&mut self) -> io::Result<bool> {
        let ReflectOptions { size, nonce, from: client, .. } = *self.options;
        let Some(received) = self.socket.receive()? else { return Ok(false) };
        let (at_ns, by_kernel) = (received.at_ns, received.by_kernel);
        let from = received.from.filter(|from| from.ip() == client);
        match ours(received.bytes, size, Kind::Request, nonce).zip(from) {
            None => self.counts.foreign += 1,
            Some(_) if self.place.len() >= self.options.limit as usize => self.counts.unlisted += 1,
            Some((packet, from)) => self.answer(&Request { packet, from, at_ns, by_kernel })?,
        }
        Ok(true)
    }

    fn answer(&mut self, request: &Request) -> io::Result<()> {
        let number = u32::try_from(self.place.len()).map_err(io::Error::other)?;
        let answered_ns = wall_ns()?;
        let answer = Packet { kind: Kind::Answer, number, received_ns: request.at_ns, answered_ns, ..request.packet };
        answer.write(&mut self.answer);
        if let Err(error) = self.socket.send_to(&self.answer, request.from) {
            self.unsent.push(number.into());
            self.counts.last_error = Some(error.to_string());
        }
        self.counts.received_stamped_late += u64::from(!request.by_kernel);
        self.place.push(place(request.packet.sequence, self.options.nonce.first()).into());
        self.received.push(request.at_ns);
        self.sent.push(answered_ns);
        self.by_kernel.push(false);
        // The kernel keeps the answers that have left in the same room as packets that arrive.
        self.departures()
    }

    fn departures(&mut self) -> io::Result<()> {
        let ReflectOptions { size, nonce, .. } = *self.options;
        while let Some((bytes, at_ns)) = self.socket.departed()? {
            let Some(packet) = ours(bytes, size, Kind::Answer, nonce) else { continue };
            let number = packet.number as usize;
            if let (Some(sent), Some(by_kernel)) = (self.sent.get_mut(number), self.by_kernel.get_mut(number)) {
                (*sent, *by_kernel) = (at_ns, true);
            }
        }
        Ok(())
    }

    fn report(self) -> io::Result<ReflectorReport> {
        let Self { socket, watch, place, received, sent, by_kernel, unsent, counts, .. } = self;
        let failed = unsent.len() as u64;
        let late = by_kernel.iter().filter(|&&yes| !yes).count() as u64;
        Ok(ReflectorReport {
            place: Steps(place),
            received: Steps(received),
            sent: Steps(sent),
            end: EndReport {
                dropped: socket.dropped()?,
                foreign: counts.foreign,
                errors: failed,
                last_error: counts.last_error,
                unlisted: counts.unlisted,
                sent_stamped_late: late.saturating_sub(failed),
                received_stamped_late: counts.received_stamped_late,
                clock: watch.end()?,
            },
            unsent,
        })
    }
}
