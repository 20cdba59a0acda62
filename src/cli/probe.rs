//! `vptest probe-send` and `vptest probe-reflect`: the two ends of a path probe, as they are started on nodes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::exit::{Exit, Failure};
use crate::instrument::probe::{Nonce, ReflectOptions, SendOptions, reflect, send};
use crate::units::parse_duration;

/// Of a packet's payload, as the spec has it.
const SIZE: std::ops::RangeInclusive<i64> = 56..=8972;

/// What both ends must agree on
#[derive(Debug, clap::Args)]
struct Common {
    /// Name of the session, 32 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    nonce: Nonce,
    /// Payload of each packet in bytes
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(SIZE))]
    size: u16,
    /// Differentiated services code point
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..64))]
    dscp: u8,
    /// Most packets
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    limit: u32,
    /// Longest time until it ends by itself
    #[arg(long, value_name = "DURATION", default_value = "1 h", value_parser = parse_duration)]
    life: Duration,
}

/// Send probe packets until SIGTERM, and print what came back (started by the instrument probe)
#[derive(Debug, clap::Args)]
pub(super) struct SendArgs {
    #[command(flatten)]
    common: Common,
    /// The reflector
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// Address to send from
    #[arg(long, value_name = "ADDRESS")]
    from: IpAddr,
    /// Time between two packets
    #[arg(long, value_name = "DURATION", default_value = "10 ms", value_parser = parse_duration)]
    interval: Duration,
    /// How long answers are waited for at the end
    #[arg(long, value_name = "DURATION", default_value = "1 s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Answer probe packets of one session until SIGTERM, and print what arrived (started by the instrument probe)
#[derive(Debug, clap::Args)]
pub(super) struct ReflectArgs {
    #[command(flatten)]
    common: Common,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS")]
    on: IpAddr,
    /// Address that gets answers
    #[arg(long, value_name = "ADDRESS")]
    from: IpAddr,
}

pub(super) fn run_send(args: &SendArgs) -> Result<Exit, Failure> {
    if args.interval.is_zero() {
        return Err(Failure::text(Exit::Usage, "--interval must be more than 0 s"));
    }
    let Common { nonce, size, dscp, limit, life } = args.common;
    let SendArgs { to, from, interval, timeout, .. } = *args;
    let options = SendOptions { to, from, nonce, interval, size: size.into(), dscp, timeout, limit, life };
    send(&options, &mut std::io::stdout().lock())?;
    Ok(Exit::Done)
}

pub(super) fn run_reflect(args: &ReflectArgs) -> Result<Exit, Failure> {
    let Common { nonce, size, dscp, limit, life } = args.common;
    let ReflectArgs { on, from, .. } = *args;
    reflect(&ReflectOptions { on, from, nonce, size: size.into(), dscp, limit, life }, &mut std::io::stdout().lock())?;
    Ok(Exit::Done)
}
