//! The server's end: answers, counts, and sends trains when it is asked to.

use std::collections::HashSet;
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
    /// Echoes that came, doubled ones once.
    pub(super) echoes: u32,
    /// The train that came; what was offered is not in it.
    pub(super) came: Rate,
    /// Bits per second at which the train that was asked for was sent; `None` when none was.
    pub(super) offered: Option<f64>,
}

/// The run that is on.
struct Run {
    number: u32,
    /// Sequence numbers: one that the network doubled is one.
    echoes: HashSet<u32>,
    meter: Meter,
    /// Losses of the socket before the run.
    overflow: u32,
    offered: Option<f64>,
    sent: bool,
}

impl Run {
    fn new(number: u32, socket: &Socket) -> Self {
        let (echoes, meter) = (HashSet::new(), Meter::default());
        Self { number, echoes, meter, overflow: socket.overflow(), offered: None, sent: false }
    }

    fn account(&self, socket: &Socket) -> Account {
        let overflow = u64::from(socket.overflow().wrapping_sub(self.overflow));
        let echoes = u32::try_from(self.echoes.len()).unwrap_or(u32::MAX);
        Account { echoes, came: self.meter.rate(None, overflow), offered: self.offered }
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
        // Late, of a run that has ended.
        if head.run < run.number {
            continue;
        }
        if head.run > run.number {
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
            run.echoes.insert(head.sequence);
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_is_late_or_doubled_changes_no_count() {
        let (tell, told) = std::sync::mpsc::channel();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let server =
            std::thread::spawn(move || serve(address, 5, Duration::from_secs(1), move |at| tell.send(at).unwrap()));
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.connect(told.recv().unwrap()).unwrap();
        let send = |kind, run, sequence| socket.send(&Head { token: 5, kind, run, sequence }.padded(0)).unwrap();
        for (run, sequence) in [(1, 0), (2, 0), (2, 1), (2, 1), (1, 2)] {
            send(Kind::Echo, run, sequence);
        }
        send(Kind::Ask, 2, 0);
        let mut buffer = [0; 1000];
        let account = loop {
            let length = socket.recv(&mut buffer).unwrap();
            match Head::read(&buffer[..length], 5) {
                Some(head) if head.kind == Kind::Account => break body::<Account>(&buffer[..length]).unwrap(),
                _ => {}
            }
        };
        assert_eq!(account.echoes, 2);
        server.join().unwrap().unwrap();
    }
}
