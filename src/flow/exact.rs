//! The statistics as values: exact where tcptrace rounds or makes a number up, absent where there is none.

use super::connection::{Connection, Way};
use super::direction::Direction;
use super::samples::{Samples, as_f64};

/// A statistic's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A count or size.
    Count(u64),
    /// A difference of counts.
    Difference(i64),
    /// A time, rate or mean.
    Real(f64),
    /// Yes or no.
    Flag(bool),
}

impl Value {
    /// As a number for summaries; `None` for flags.
    pub fn number(self) -> Option<f64> {
        match self {
            Self::Count(n) => Some(as_f64(n)),
            #[expect(clippy::cast_precision_loss, reason = "summaries are in doubles")]
            Self::Difference(n) => Some(n as f64),
            Self::Real(x) => Some(x),
            Self::Flag(_) => None,
        }
    }
}

/// A statistic of one direction of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Statistic {
    /// tcptrace's column name.
    pub name: &'static str,
    /// Its unit: `1` for counts, `B`, `s`, `ms`, `B/s`; empty for flags.
    pub unit: &'static str,
    value: fn(&Connection, &Direction) -> Option<Value>,
}

impl Statistic {
    /// Its value in one direction; `None` where there is nothing to measure.
    pub fn value(&self, connection: &Connection, way: Way) -> Option<Value> {
        (self.value)(connection, connection.direction(way))
    }
}

macro_rules! statistics {
    ($($name:literal $unit:literal $value:expr;)*) => {
        &[$(Statistic { name: $name, unit: $unit, value: $value }),*]
    };
}

/// All statistics, in tcptrace's order. Two of its columns hold pairs and are two statistics here.
pub const STATISTICS: &[Statistic] = statistics![
    "total_packets" "1" |_, d| count(d.packets);
    "resets_sent" "1" |_, d| count(d.resets.into());
    "ack_pkts_sent" "1" |_, d| count(d.ack_packets);
    "pure_acks_sent" "1" |_, d| count(d.pure_acks);
    "sack_pkts_sent" "1" |_, d| count(d.rare().sack_packets);
    "dsack_pkts_sent" "1" |_, d| count(d.rare().dsack_packets);
    "max_sack_blks/ack" "1" |_, d| count(d.rare().sack_blocks_max);
    "unique_bytes_sent" "B" |_, d| count(d.unique_bytes);
    "actual_data_pkts" "1" |_, d| count(d.data_packets);
    "actual_data_bytes" "B" |_, d| count(d.data_bytes);
    "rexmt_data_pkts" "1" |_, d| count(d.rare().rexmit_packets);
    "rexmt_data_bytes" "B" |_, d| count(d.rare().rexmit_bytes);
    "zwnd_probe_pkts" "1" |_, d| count(d.rare().probe_packets);
    "zwnd_probe_bytes" "B" |_, d| count(d.rare().probe_bytes);
    "outoforder_pkts" "1" |_, d| count(d.rare().out_of_order);
    "pushed_data_pkts" "1" |_, d| count(d.push_packets);
    "SYN_pkts_sent" "1" |_, d| count(d.syns.into());
    "FIN_pkts_sent" "1" |_, d| count(d.fins.into());
    "req_1323_ws" "" |_, d| Some(Value::Flag(d.window_scale));
    "req_1323_ts" "" |_, d| Some(Value::Flag(d.timestamps));
    "adv_wind_scale" "1" |_, d| given(d.window_scale, d.scale.into());
    "req_sack" "" |_, d| Some(Value::Flag(d.sack_permitted));
    "sacks_sent" "1" |_, d| count(d.rare().sacks_sent);
    "urgent_data_pkts" "1" |_, d| count(d.rare().urgent_packets);
    "urgent_data_bytes" "B" |_, d| count(d.rare().urgent_bytes);
    "mss_requested" "B" |_, d| given(d.mss > 0, d.mss.into());
    "max_segm_size" "B" |_, d| given(d.data_packets > 0, d.segment_max.into());
    "min_segm_size" "B" |_, d| given(d.data_packets > 0, d.segment_min.into());
    "avg_segm_size" "B" |_, d| ratio(as_f64(d.data_bytes), as_f64(d.data_packets));
    "max_win_adv" "B" |_, d| given(advertises(d), d.window_max);
    "min_win_adv" "B" |_, d| given(d.window_min > 0, d.window_min);
    "zero_win_adv" "1" |_, d| count(d.zero_windows);
    "avg_win_adv" "B" mean_window;
    "max_owin" "B" |_, d| given(sound_owin(d), d.owin_max);
    "min_non-zero_owin" "B" |_, d| given(d.owin_min > 0 && d.owin_min < WRAPPED, d.owin_min);
    "avg_owin" "B" |_, d| if sound_owin(d) { ratio(as_f64(d.owin_sum), as_f64(d.owin_count)) } else { None };
    "wavg_owin" "B" |c, d| if sound_owin(d) { ratio(as_f64(d.owin_weighted), seconds(c)) } else { None };
    "initial_window_bytes" "B" |_, d| count(d.initial_bytes);
    "initial_window_pkts" "1" |_, d| count(d.initial_packets);
    "ttl_stream_length" "B" |_, d| d.stream_length().map(Value::Count);
    "missed_data" "B" |_, d| Some(Value::Difference(d.stream_length()?.wrapping_sub(d.unique_bytes).cast_signed()));
    "truncated_data" "B" |_, d| count(d.truncated_bytes);
    "truncated_packets" "1" |_, d| count(d.truncated_packets);
    "data_xmit_time" "s" |_, d| real(d.data_packets > 0, as_f64(d.data_micros()) / 1e6);
    "idletime_max" "ms" |_, d| real(d.packets > 0, as_f64(d.idle) / 1e3);
    "hardware_dups" "1" |_, d| count(d.rare().hardware_duplicates);
    "throughput" "B/s" |c, d| ratio(as_f64(d.unique_bytes), seconds(c));
    "RTT_samples" "1" |_, d| count(d.rtt.count);
    "RTT_min" "ms" |_, d| least(&d.rtt);
    "RTT_max" "ms" |_, d| most(&d.rtt);
    "RTT_avg" "ms" |_, d| mean(&d.rtt);
    "RTT_stdev" "ms" |_, d| deviation(&d.rtt);
    "RTT_from_3WHS" "ms" |_, d| real(d.handshake_rtt > 0, as_f64(d.handshake_rtt) / 1e3);
    "RTT_full_sz_smpls" "1" |_, d| count(d.full_rtt.count);
    "RTT_full_sz_min" "ms" |_, d| least(&d.full_rtt);
    "RTT_full_sz_max" "ms" |_, d| most(&d.full_rtt);
    "RTT_full_sz_avg" "ms" |_, d| mean(&d.full_rtt);
    "RTT_full_sz_stdev" "ms" |_, d| deviation(&d.full_rtt);
    "post-loss_acks" "1" |_, d| count(d.rare().post_loss_acks);
    "ambiguous_acks" "1" |_, d| count(d.rare().last_rtt.count);
    "RTT_min_(last)" "ms" |_, d| least(&d.rare().last_rtt);
    "RTT_max_(last)" "ms" |_, d| most(&d.rare().last_rtt);
    "RTT_avg_(last)" "ms" |_, d| mean(&d.rare().last_rtt);
    "RTT_sdv_(last)" "ms" |_, d| deviation(&d.rare().last_rtt);
    "segs_cum_acked" "1" |_, d| count(d.cumulative_acks);
    "duplicate_acks" "1" |_, d| count(d.duplicate_acks);
    "triple_dupacks" "1" |_, d| count(d.rare().triple_duplicates);
    "max_#_retrans" "1" |_, d| count(d.rare().resend_max.into());
    "min_retr_time" "ms" |_, d| least(&d.rare().resend);
    "max_retr_time" "ms" |_, d| most(&d.rare().resend);
    "avg_retr_time" "ms" |_, d| mean(&d.rare().resend);
    "sdv_retr_time" "ms" |_, d| deviation(&d.rare().resend);
];

/// Outstanding octets from here on are negative numbers: the peer acknowledged more than was seen.
const WRAPPED: u64 = 1 << 63;

// Every statistic has the same signature, also those that are always there.
#[expect(clippy::unnecessary_wraps, reason = "the table holds one type of function")]
const fn count(n: u64) -> Option<Value> {
    Some(Value::Count(n))
}

fn given(is_given: bool, n: u64) -> Option<Value> {
    is_given.then_some(Value::Count(n))
}

fn real(is_given: bool, x: f64) -> Option<Value> {
    is_given.then_some(Value::Real(x))
}

fn ratio(of: f64, by: f64) -> Option<Value> {
    real(by > 0.0, of / by)
}

/// Seconds between first and last packet.
fn seconds(connection: &Connection) -> f64 {
    as_f64(connection.duration_micros()) / 1e6
}

const fn sound_owin(d: &Direction) -> bool {
    d.owin_count > 0 && d.owin_max < WRAPPED
}

/// Did it send a packet whose window field counts?
const fn advertises(d: &Direction) -> bool {
    d.ack_packets > 0 || d.syns > 0
}

fn mean_window(connection: &Connection, d: &Direction) -> Option<Value> {
    let both_scaled = connection.directions.iter().all(|direction| direction.scaled);
    let packets = if both_scaled { d.scaled_packets } else { d.packets };
    if advertises(d) { ratio(as_f64(d.window_sum), as_f64(packets)) } else { None }
}

fn least(samples: &Samples) -> Option<Value> {
    real(samples.count > 0, as_f64(samples.min) / 1e3)
}

fn most(samples: &Samples) -> Option<Value> {
    real(samples.count > 0, as_f64(samples.max) / 1e3)
}

fn mean(samples: &Samples) -> Option<Value> {
    samples.mean().map(|micros| Value::Real(micros / 1e3))
}

fn deviation(samples: &Samples) -> Option<Value> {
    samples.deviation().map(|micros| Value::Real(micros / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_is_absent_not_zero() {
        let nothing = Connection::default();
        for name in ["RTT_avg", "RTT_stdev", "avg_segm_size", "throughput", "missed_data", "idletime_max", "max_owin"] {
            let statistic = STATISTICS.iter().find(|statistic| statistic.name == name).expect("is in the table");
            assert_eq!(statistic.value(&nothing, Way::AToB), None, "{name}");
        }
    }

    #[test]
    fn names_are_tcptraces() {
        let known = super::super::compat::STATISTICS;
        for statistic in STATISTICS {
            let split = ["SYN_pkts_sent", "FIN_pkts_sent", "req_1323_ws", "req_1323_ts"].contains(&statistic.name);
            assert!(split || known.contains(&statistic.name), "{}", statistic.name);
        }
        assert_eq!(STATISTICS.len(), known.len() + 2);
    }
}
