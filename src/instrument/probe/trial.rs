//! Does the kernel stamp packets here? Tried with one, from this process to itself.

use std::io;
use std::net::Ipv4Addr;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock::KernelState;
use super::socket::Socket;
use super::wire::LEAST_SIZE;
use crate::host::clock::wall_ns;

/// How long a packet on the loopback interface may take, in milliseconds.
const PATIENCE_MS: u16 = 1000;

/// What the kernel does for probes, in words.
///
/// # Errors
/// When it refuses what a probe needs.
pub fn trial() -> io::Result<String> {
    let local = Ipv4Addr::LOCALHOST.into();
    let (one, mut other) = (Socket::open(local, LEAST_SIZE, 0)?, Socket::open(local, LEAST_SIZE, 0)?);
    one.connect((local, other.port()?).into())?;
    let before = wall_ns()?;
    one.send(&[0; LEAST_SIZE])?;
    poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&other), PollFlags::POLLIN)], PollTimeout::from(PATIENCE_MS))?;
    let arrived = other.receive()?.map(|received| received.at_ns);
    let mut one = one;
    let departed = one.departed()?.map(|(_, at)| at);
    let (Some(departed), Some(arrived)) = (departed, arrived) else {
        return Err(io::Error::other("the kernel does not say when packets leave and arrive"));
    };
    if !(before..=arrived).contains(&departed) {
        return Err(io::Error::other("the kernel's times of packets are out of order"));
    }
    other.dropped()?;
    let clock = match KernelState::read() {
        Some(state) if state.synchronised => format!("synchronised within {} µs", state.max_error_ns / 1000),
        Some(_) => "not synchronised".to_owned(),
        None => "of unknown quality".to_owned(),
    };
    Ok(format!("works, with the kernel's times; this host's clock is {clock}"))
}
