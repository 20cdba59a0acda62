//! The server's end: answers, counts, and sends trains when it is asked to.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Rate;
use super::meter::Meter;
use super::packet::{Head, Kind, body};
use super::socket::{Arrival, Socket, lost_on_the_way};
use super::train::{self, OVERHEAD, Plan};

/// Largest datagram.
pub(super) const BUFFER: usize = 1 << 16;

/// What the server says in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Routers that the datagram has passed.
    pub(super) hops: Option<u8>,
}

/// What the server says of a run when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Account {
    /// Echoes that came.
    pub(super) echoes: u32,
    /// The train that came; what was offered is not in it.
    pub(super) came: Rate,
    /// Bits per second at which the train that was asked for was sent; `None` when none was.
    pub(super) offered: Option<f64>,
}

/// The run that is on.
struct Run {
    number: u32,
    echoes: u32,
    meter: Meter,
    /// Losses of the socket before the run.
    overflow: u32,
    offered: Option<f64>,
    sent: bool,
}

impl Run {
    fn new(number: u32, socket: &Socket) -> Self {
        Self { number, echoes: 0, meter: Meter::default(), overflow: socket.overflow(), offered: None, sent: false }
    }

    fn account(&self, socket: &Socket) -> Account {
        let overflow = u64::from(socket.overflow().wrapping_sub(self.overflow));
        Account { echoes: self.echoes, came: self.meter.rate(None, overflow), offered: self.offered }
    }
}

/// Serves on `address` until nothing has come for `idle`, or a signal ends the process. `ready` is called with the address
/// in use. Datagrams without the `token` are passed over.
///
/// # Errors
/// The address cannot be used, or the socket fails.
pub fn serve(address: SocketAddr, token: u64, idle: Duration, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let socket = Socket::bind(address)?;
    ready(socket.local_addr()?);
    let mut buffer = vec![0; BUFFER];
    let mut run = Run::new(0, &socket);
    while let Some(arrival) = socket.receive(&mut buffer, Instant::now() + idle)? {
        let bytes = &buffer[..arrival.length];
        let Some(head) = Head::read(bytes, token) else { continue };
        if head.run != run.number {
            run = Run::new(head.run, &socket);
        }
        match serve_one(&socket, &mut run, head, bytes, &arrival) {
            Err(error) if !lost_on_the_way(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn serve_one(socket: &Socket, run: &mut Run, head: Head, bytes: &[u8], arrival: &Arrival) -> io::Result<()> {
    let from = arrival.from;
    match head.kind {
        Kind::Echo => {
            run.echoes += 1;
            let answer = Head { kind: Kind::Answer, ..head };
            socket.send(&answer.with(&Seen { hops: arrival.hops }), from)
        }
        Kind::Train => {
            if let Some(at_ns) = arrival.at_ns {
                run.meter.add(at_ns, u32::try_from(arrival.length).unwrap_or(u32::MAX).saturating_add(OVERHEAD));
            }
            Ok(())
        }
        // Asked again when the request seems lost; the train is sent once.
        Kind::Send if !run.sent => {
            run.sent = true;
            let Some(plan) = body::<Plan>(bytes) else { return Ok(()) };
            run.offered = train::send(socket, from, head.token, head.run, plan.bounded())?;
            Ok(())
        }
        Kind::Ask => socket.send(&Head { kind: Kind::Account, ..head }.with(&run.account(socket)), from),
        Kind::Send | Kind::Answer | Kind::Account => Ok(()),
    }
}
