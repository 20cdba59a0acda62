//! A train of datagrams at a set rate: somewhat more than the link should carry, for as short a time as tells its rate.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::meter::{WARM_UP, bits_per_second};
use super::packet::{HEADER, Head, Kind};
use super::socket::{Socket, lost_on_the_way};

/// Ethernet, IPv4 and UDP headers: what a rate limit counts beside the payload.
pub(super) const OVERHEAD: u32 = 14 + 20 + 8;
/// Of the link's rate, in percent: what is sent.
const OFFERED_PERCENT: u64 = 150;
/// How long a train takes on the link, in milliseconds…
const LENGTH_MS: u64 = 200;
/// …but at least so many packets…
const FEWEST: u64 = 64;
/// …which are smaller on slow links, so that the fewest take no more than about this…
const SMALLER_MS: u64 = 2_000;
/// …and a train that would take longer than this is none.
const LONGEST_MS: u64 = 20_000;
/// A token bucket holds what passes in so many milliseconds, and so many frames at least (crate::host::qdisc). At one and a
/// half times its rate three times that passes before it is empty.
const BURST_MS: u64 = 2;
const BURST_FRAMES: u64 = 2;
const BURSTS: u64 = 3;
/// Ethernet header and check sequence, as the bucket's frames have them.
const FRAME: u64 = 18;
/// Bytes of a train on a link without a limit, and of the longest one.
const UNLIMITED: u64 = 8 << 20;
const MOST: u64 = 64 << 20;
/// Payload of a datagram at most.
const LARGEST: u64 = 8_972;
/// A sender that is further behind than this does not catch up: its burst would only fill queues.
const MOST_BEHIND: Duration = Duration::from_millis(10);

/// Which train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Payload of each datagram, in bytes.
    pub payload: u32,
    /// How many datagrams.
    pub packets: u32,
    /// Bits per second on the link; `None` for as fast as can be.
    pub pace: Option<u64>,
}

impl Plan {
    /// The train for a link of that rate (bit/s; `None` without a limit) and MTU. `None` where none of bearable length tells
    /// the rate from what a token bucket of that rate has saved up.
    pub fn for_link(rate: Option<u64>, mtu: u32) -> Option<Self> {
        let overhead = u64::from(OVERHEAD);
        let whole = u64::from(mtu).saturating_sub(28).clamp(HEADER as u64, LARGEST) + overhead;
        let bytes_in = |rate: u64, ms: u64| u64::try_from(u128::from(rate) * u128::from(ms) / 8_000).unwrap_or(MOST);
        let (wire, bytes) = match rate {
            None => (whole, UNLIMITED.max(FEWEST * whole)),
            Some(rate) => {
                // Smaller packets where even the fewest whole ones would take too long.
                let wire = whole.min(bytes_in(rate, SMALLER_MS) / FEWEST).max(HEADER as u64 + overhead);
                // What is offered beyond the rate gets lost.
                let bytes = bytes_in(rate, LENGTH_MS).max(FEWEST * wire).min(MOST) * OFFERED_PERCENT / 100;
                let burst = bytes_in(rate, BURST_MS).max(BURST_FRAMES * (u64::from(mtu) + FRAME));
                // The part that is not counted has the bursts.
                let offered = bytes.max((burst * BURSTS + wire) * WARM_UP as u64);
                (offered <= bytes_in(rate, LONGEST_MS).min(MOST * OFFERED_PERCENT / 100)).then_some((wire, offered))?
            }
        };
        let number = |n: u64| u32::try_from(n).expect("bounded by the longest train");
        let pace = rate.map(|rate| rate.saturating_mul(OFFERED_PERCENT) / 100);
        Some(Self { payload: number(wire - overhead), packets: number((bytes / wire).max(FEWEST)), pace })
    }

    /// How long the link takes for it, if none of it is lost.
    pub(super) fn takes(&self) -> Duration {
        let bits = u64::from(self.packets) * u64::from(self.payload.saturating_add(OVERHEAD)) * 8;
        let rate = self.pace.map(|pace| (pace / OFFERED_PERCENT).max(1).saturating_mul(100));
        rate.map_or(Duration::ZERO, |rate| Duration::from_millis(bits.saturating_mul(1_000) / rate))
    }

    /// A plan that came over the network, within the bounds of those made here.
    pub(super) fn bounded(self) -> Self {
        let most = u32::try_from(2 * MOST).expect("a constant that fits") / self.payload.saturating_add(OVERHEAD);
        Self {
            payload: self.payload.min(u32::try_from(LARGEST).unwrap_or(u32::MAX)),
            packets: self.packets.min(most),
            ..self
        }
    }
}

/// Sends the train and says at which rate (bits per second on the link) it left, after the part that the receiver does not
/// count either; `None` when it took no time.
pub(super) fn send(socket: &Socket, to: SocketAddr, token: u64, run: u32, plan: Plan) -> io::Result<Option<f64>> {
    let wire = plan.payload + OVERHEAD;
    let gap = plan.pace.map(|pace| Duration::from_nanos(u64::from(wire) * 8 * 1_000_000_000 / pace.max(1)));
    let mut bytes = Head { token, kind: Kind::Train, run, sequence: 0 }.padded(plan.payload as usize);
    let (mut begun, mut sent) = (Instant::now(), 0_u64);
    let mut due = begun;
    for sequence in 0..plan.packets {
        if sequence as usize == plan.packets as usize / WARM_UP {
            (begun, sent) = (Instant::now(), 0);
        }
        if let Some(gap) = gap {
            due = wait_for(due) + gap;
        }
        bytes[HEADER - 4..HEADER].copy_from_slice(&sequence.to_be_bytes());
        match socket.send(&bytes, to) {
            Ok(()) => sent += u64::from(wire),
            Err(error) if lost_on_the_way(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let ns = i64::try_from(begun.elapsed().as_nanos()).unwrap_or(i64::MAX);
    Ok(bits_per_second(sent, ns))
}

/// Waits until `due` and returns the time that counts as due: later where the sender is far behind.
fn wait_for(due: Instant) -> Instant {
    let now = Instant::now();
    match due.checked_duration_since(now) {
        Some(left) => {
            std::thread::sleep(left);
            due
        }
        None if now.duration_since(due) > MOST_BEHIND => now,
        None => due,
    }
}

#[cfg(test)]
mod tests {
    use super::super::meter::Meter;
    use super::*;

    #[test]
    fn trains_are_short_in_time_and_bytes() {
        for (rate, mtu, payload, packets) in [
            // 200 ms of the rate, half as much again.
            (Some(100_000_000), 1500, 1472, 2476),
            (Some(1_000_000_000), 1500, 1472, 24_768),
            // 64 whole packets would take 7.7 s.
            // Three full buckets in the first quarter.
            (Some(100_000), 1500, 348, 97),
            (Some(100_000_000), 68, 40, 45_731),
            (None, 1500, 1472, 5540),
            (None, 65_535, 8972, 930),
            (Some(10_000_000_000), 1500, 1472, 66_488),
        ] {
            let plan = Plan::for_link(rate, mtu).unwrap();
            assert_eq!((plan.payload, plan.packets), (payload, packets), "{rate:?} {mtu}");
            assert_eq!(plan.bounded(), plan);
        }
        for (rate, mtu) in [(8_000, 1500), (80_000, 9000), (u64::MAX, 1500), (0, 1500)] {
            assert_eq!(Plan::for_link(Some(rate), mtu), None, "{rate} {mtu}");
        }
        let wild = Plan { payload: u32::MAX, packets: u32::MAX, pace: Some(0) }.bounded();
        assert!(u64::from(wild.payload) <= LARGEST && u64::from(wild.packets) * u64::from(wild.payload) <= 4 * MOST);
    }

    /// What arrives behind the bucket of [`crate::host::qdisc::TokenBucket::for_link`].
    fn behind_a_bucket(plan: Plan, rate: u64, mtu: u64) -> Meter {
        // Tokens are counted in parts of a byte that come one in a nanosecond at 1 bit/s.
        const BYTE: u64 = 8_000_000_000;
        let (wire, pace) = (u64::from(plan.payload + OVERHEAD), plan.pace.unwrap());
        let burst = (rate / 4_000).max(2 * (mtu + 18));
        let limit = burst + (rate / 320).max(32 * (mtu + 18));
        let (mut tokens, mut last, mut gone, mut meter) = (burst * BYTE, 0, Vec::<u64>::new(), Meter::default());
        for number in 0..u64::from(plan.packets) {
            let at = number * wire * BYTE / pace;
            let waiting = (gone.len() - gone.partition_point(|&gone| gone <= at)) as u64;
            if (waiting + 1) * wire > limit {
                continue;
            }
            let begun = at.max(last);
            tokens = (tokens + rate * (begun - last)).min(burst * BYTE);
            let wait = (wire * BYTE).saturating_sub(tokens).div_ceil(rate);
            tokens = tokens + rate * wait - wire * BYTE;
            last = begun + wait;
            gone.push(last);
            meter.add(i64::try_from(last).unwrap(), u32::try_from(wire).unwrap());
        }
        meter
    }

    #[test]
    fn a_full_bucket_does_not_pass_for_the_rate() {
        let rates =
            [8_000, 16_000, 64_000, 100_000, 500_000, 1_000_000, 10_000_000, 12_000_000, 100_000_000, 1_000_000_000];
        for (rate, mtu) in rates.into_iter().flat_map(|rate: u32| [(rate, 1500), (rate, 9000)]) {
            let Some(plan) = Plan::for_link(Some(rate.into()), mtu) else {
                assert!(rate < 15_000 || (rate < 90_000 && mtu == 9000), "{rate} {mtu}");
                continue;
            };
            let received = behind_a_bucket(plan, rate.into(), mtu.into()).rate(None, 0).received.unwrap();
            let off = (received / f64::from(rate) - 1.0).abs();
            assert!(off < 0.02, "{rate} {mtu}: {received}");
            assert!(plan.takes() <= Duration::from_millis(LONGEST_MS + 1), "{rate} {mtu}: {:?}", plan.takes());
        }
    }
}
