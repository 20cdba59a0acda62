//! tcptrace's CSV, `tcptrace -lnrW --csv`, to the byte.
//!
//! The quirks are its own: microseconds without leading zeros, `NA` in some places and a made-up 0 in others, means
//! divided by slightly more than the count. Whoever wants values takes [`super::exact`].

use std::net::Ipv6Addr;

use super::cells::{Cells, decimal, row};
use super::connection::Connection;
use super::direction::Direction;
use super::samples::{Samples, as_f64};
use super::side::truncated;

/// Identity columns.
const IDENTITY: [&str; 7] = ["conn_#", "host_a", "host_b", "port_a", "port_b", "first_packet", "last_packet"];

/// Statistics in column order, each followed by `_a2b` and `_b2a`.
pub(super) const STATISTICS: [&str; 70] = [
    "total_packets",
    "resets_sent",
    "ack_pkts_sent",
    "pure_acks_sent",
    "sack_pkts_sent",
    "dsack_pkts_sent",
    "max_sack_blks/ack",
    "unique_bytes_sent",
    "actual_data_pkts",
    "actual_data_bytes",
    "rexmt_data_pkts",
    "rexmt_data_bytes",
    "zwnd_probe_pkts",
    "zwnd_probe_bytes",
    "outoforder_pkts",
    "pushed_data_pkts",
    "SYN/FIN_pkts_sent",
    "req_1323_ws/ts",
    "adv_wind_scale",
    "req_sack",
    "sacks_sent",
    "urgent_data_pkts",
    "urgent_data_bytes",
    "mss_requested",
    "max_segm_size",
    "min_segm_size",
    "avg_segm_size",
    "max_win_adv",
    "min_win_adv",
    "zero_win_adv",
    "avg_win_adv",
    "max_owin",
    "min_non-zero_owin",
    "avg_owin",
    "wavg_owin",
    "initial_window_bytes",
    "initial_window_pkts",
    "ttl_stream_length",
    "missed_data",
    "truncated_data",
    "truncated_packets",
    "data_xmit_time",
    "idletime_max",
    "hardware_dups",
    "throughput",
    "RTT_samples",
    "RTT_min",
    "RTT_max",
    "RTT_avg",
    "RTT_stdev",
    "RTT_from_3WHS",
    "RTT_full_sz_smpls",
    "RTT_full_sz_min",
    "RTT_full_sz_max",
    "RTT_full_sz_avg",
    "RTT_full_sz_stdev",
    "post-loss_acks",
    "ambiguous_acks",
    "RTT_min_(last)",
    "RTT_max_(last)",
    "RTT_avg_(last)",
    "RTT_sdv_(last)",
    "segs_cum_acked",
    "duplicate_acks",
    "triple_dupacks",
    "max_#_retrans",
    "min_retr_time",
    "max_retr_time",
    "avg_retr_time",
    "sdv_retr_time",
];

/// Appends the header line and the empty line after it.
pub fn write_header(out: &mut Vec<u8>) {
    for name in IDENTITY {
        out.extend_from_slice(name.as_bytes());
        out.push(b',');
    }
    for name in STATISTICS {
        for way in ["_a2b,", "_b2a,"] {
            // One name is spelt with a blank, in one direction only.
            let name = if (name, way) == ("RTT_full_sz_stdev", "_a2b,") { "RTT full_sz_stdev" } else { name };
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(way.as_bytes());
        }
    }
    out.extend_from_slice(b"\n\n");
}

/// Appends the line of one connection.
pub fn write_row(connection: &Connection, out: &mut Vec<u8>) {
    out.reserve(2600);
    identity(connection, out);
    let [a, b] = &connection.directions;
    let (both, duration) = ([a, b], connection.duration_micros());
    row(out, 2 * STATISTICS.len(), |cells| {
        cells.counters(both);
        cells.options(both);
        cells.sizes(both, a.scaled && b.scaled);
        cells.outstanding(both, duration);
        cells.stream(both, duration);
        cells.rtt(both);
        cells.resends(both);
    });
    out.push(b'\n');
}

fn identity(connection: &Connection, out: &mut Vec<u8>) {
    decimal(connection.number, out);
    for end in [connection.a, connection.b] {
        out.push(b',');
        if connection.v6 { host_v6(end.address_v6(), out) } else { host_v4(end.address_v4().octets(), out) }
    }
    for end in [connection.a, connection.b] {
        out.push(b',');
        decimal(u64::from(end.port()), out);
    }
    out.push(b',');
    time(connection.first.micros(), out);
    out.extend_from_slice(b" , ");
    time(connection.last.micros(), out);
    out.extend_from_slice(b" ,");
    // tcptrace puts a blank before the first cell's padding only here; cells are padded to 15 anyway.
}

fn host_v4(octets: [u8; 4], out: &mut Vec<u8>) {
    for (at, octet) in octets.into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        decimal(u64::from(octet), out);
    }
}

/// Groups of four digits. The first run of zero groups is left out, wherever it is and however short, with the colons
/// that happen to remain.
fn host_v6(address: Ipv6Addr, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let groups = address.segments();
    let begin = groups.iter().position(|&group| group == 0).unwrap_or(8);
    let length = groups[begin..].iter().take_while(|&&group| group == 0).count();
    // The last group is printed even if the run reaches it, unless it is the whole run.
    let end = if begin + length == 8 && length > 1 { 7 } else { begin + length };
    for (at, group) in groups.into_iter().enumerate() {
        if (begin..end).contains(&at) {
            if at == begin && end < 8 {
                out.push(b':');
            }
            continue;
        }
        for shift in [12, 8, 4, 0] {
            out.push(HEX[usize::from(group >> shift & 0xf)]);
        }
        if at < 7 && !(begin == 7 && at == 6) {
            out.push(b':');
        }
    }
}

/// Seconds, a dot, microseconds without leading zeros.
fn time(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros.div_euclid(1_000_000);
    if seconds < 0 {
        out.push(b'-');
    }
    decimal(seconds.unsigned_abs(), out);
    out.push(b'.');
    decimal(micros.rem_euclid(1_000_000).unsigned_abs(), out);
}

type Both<'a> = [&'a Direction; 2];

impl Cells<'_> {
    #[inline]
    fn numbers(&mut self, both: Both<'_>, value: impl Fn(&Direction) -> u64) {
        for direction in both {
            self.number(value(direction));
        }
    }

    fn flags(&mut self, both: Both<'_>, value: impl Fn(&Direction) -> &'static str) {
        for direction in both {
            self.text(value(direction).as_bytes());
        }
    }

    fn counters(&mut self, both: Both<'_>) {
        self.numbers(both, |d| d.packets);
        self.numbers(both, |d| u64::from(d.resets));
        self.numbers(both, |d| d.ack_packets);
        self.numbers(both, |d| d.pure_acks);
        self.numbers(both, |d| d.rare().sack_packets);
        self.numbers(both, |d| d.rare().dsack_packets);
        self.numbers(both, |d| d.rare().sack_blocks_max);
        self.numbers(both, |d| d.unique_bytes);
        self.numbers(both, |d| d.data_packets);
        self.numbers(both, |d| d.data_bytes);
        self.numbers(both, |d| d.rare().rexmit_packets);
        self.numbers(both, |d| d.rare().rexmit_bytes);
        self.numbers(both, |d| d.rare().probe_packets);
        self.numbers(both, |d| d.rare().probe_bytes);
        self.numbers(both, |d| d.rare().out_of_order);
        self.numbers(both, |d| d.push_packets);
    }

    fn options(&mut self, both: Both<'_>) {
        for direction in both {
            self.pair(direction.syns, direction.fins);
        }
        self.flags(both, |d| match (d.window_scale, d.timestamps) {
            (true, true) => "Y/Y",
            (true, false) => "Y/N",
            (false, true) => "N/Y",
            (false, false) => "N/N",
        });
        self.numbers(both, |d| u64::from(d.scale));
        self.flags(both, |d| if d.sack_permitted { "Y" } else { "N" });
        self.numbers(both, |d| d.rare().sacks_sent);
        self.numbers(both, |d| d.rare().urgent_packets);
        self.numbers(both, |d| d.rare().urgent_bytes);
        self.numbers(both, |d| u64::from(d.mss));
    }

    fn sizes(&mut self, both: Both<'_>, both_scaled: bool) {
        self.numbers(both, |d| u64::from(d.segment_max));
        self.numbers(both, |d| u64::from(d.segment_min));
        self.numbers(both, |d| truncated(as_f64(d.data_bytes) / (as_f64(d.data_packets) + 0.001)));
        self.numbers(both, |d| d.window_max);
        self.numbers(both, |d| d.window_min);
        self.numbers(both, |d| d.zero_windows);
        self.numbers(both, |d| {
            let packets = if both_scaled { d.scaled_packets } else { d.packets };
            d.window_sum.checked_div(packets).unwrap_or(0)
        });
    }

    fn outstanding(&mut self, both: Both<'_>, duration: u64) {
        self.numbers(both, |d| d.owin_max);
        self.numbers(both, |d| d.owin_min);
        self.numbers(both, |d| d.owin_sum.checked_div(d.owin_count).unwrap_or(0));
        for direction in both {
            let seconds = as_f64(duration) / 1e6;
            self.optional((duration > 0).then(|| truncated(as_f64(direction.owin_weighted) / seconds)));
        }
        self.numbers(both, |d| d.initial_bytes);
        self.numbers(both, |d| d.initial_packets);
    }

    fn stream(&mut self, both: Both<'_>, duration: u64) {
        let length = both.map(Direction::stream_length);
        self.optional(length[0]);
        self.optional(length[1]);
        for (direction, length) in both.into_iter().zip(length) {
            self.optional(length.map(|length| length.wrapping_sub(direction.unique_bytes)));
        }
        self.numbers(both, |d| d.truncated_bytes);
        self.numbers(both, |d| d.truncated_packets);
        for direction in both {
            self.seconds(direction.data_micros());
        }
        for direction in both {
            if direction.last_sent == 0 { self.text(b"NA") } else { self.millis(direction.idle) }
        }
        self.numbers(both, |d| d.rare().hardware_duplicates);
        for direction in both {
            self.throughput(direction.unique_bytes, duration);
        }
    }

    fn throughput(&mut self, bytes: u64, duration: u64) {
        if duration == 0 {
            return self.text(b"NA");
        }
        self.whole(as_f64(bytes) / (as_f64(duration) / 1e6));
    }

    fn rtt(&mut self, both: Both<'_>) {
        self.samples(both, |d| &d.rtt, true);
        for direction in both {
            self.millis(direction.handshake_rtt);
        }
        self.samples(both, |d| &d.full_rtt, true);
        self.numbers(both, |d| d.rare().post_loss_acks);
        self.numbers(both, |d| d.rare().last_rtt.count);
        self.samples(both, |d| &d.rare().last_rtt, false);
        self.numbers(both, |d| d.cumulative_acks);
        self.numbers(both, |d| d.duplicate_acks);
        self.numbers(both, |d| d.rare().triple_duplicates);
    }

    fn resends(&mut self, both: Both<'_>) {
        self.numbers(both, |d| u64::from(d.rare().resend_max));
        self.samples(both, |d| &d.rare().resend, false);
    }

    fn samples<'d>(&mut self, both: Both<'d>, of: impl Fn(&'d Direction) -> &'d Samples, counted: bool) {
        let both = both.map(of);
        for samples in both.iter().filter(|_| counted) {
            self.number(samples.count);
        }
        for samples in both {
            self.millis(samples.min);
        }
        for samples in both {
            self.millis(samples.max);
        }
        for samples in both {
            self.millis_f64(samples.sum / (as_f64(samples.count) + 0.0001));
        }
        for samples in both {
            self.millis_f64(deviation(samples));
        }
    }
}

/// tcptrace's standard deviation in µs: 0 up to two samples, not a number where rounding made the variance negative.
fn deviation(samples: &Samples) -> f64 {
    if samples.count <= 2 {
        return 0.0;
    }
    let n = as_f64(samples.count);
    ((samples.sum_of_squares - (samples.sum * samples.sum) / n) / (n - 1.0)).sqrt()
}

impl Direction {
    /// Octets between SYN and FIN by their sequence numbers, as tcptrace computes it; `None` unless both were sent.
    pub fn stream_length(&self) -> Option<u64> {
        if !self.opened_and_closed() {
            return None;
        }
        let top = u64::from(if self.resets > 0 { self.latest } else { self.fin_seq });
        let isn = u64::from(self.isn);
        let wraps = self.wraps + u64::from(top <= isn);
        Some(top.wrapping_sub(isn).wrapping_sub(1).wrapping_add(wraps << 32))
    }

    /// Microseconds from the first to the last packet with payload; 0 without any.
    pub fn data_micros(&self) -> u64 {
        super::ledger::gap(self.first_data, self.last_data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(address: &str) -> String {
        let mut out = Vec::new();
        host_v6(address.parse().expect("an address"), &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn ipv6_hosts_have_tcptraces_colons() {
        assert_eq!(host("::1"), ":0001");
        assert_eq!(host("::"), ":0000");
        assert_eq!(host("2001:db8::"), "2001:0db8::0000");
        assert_eq!(host("2001:db8::5:0:0:1"), "2001:0db8::0005:0000:0000:0001");
        assert_eq!(host("1:2:0:4:5:6:7:8"), "0001:0002::0004:0005:0006:0007:0008");
        assert_eq!(host("1:2:3:4:5:6:7:0"), "0001:0002:0003:0004:0005:0006:0007");
        assert_eq!(host("1:2:3:4:5:6:7:8"), "0001:0002:0003:0004:0005:0006:0007:0008");
    }

    #[test]
    fn times_are_not_padded() {
        let mut out = Vec::new();
        time(1_700_000_000_000_005, &mut out);
        time(-1, &mut out);
        assert_eq!(out, b"1700000000.5-1.999999");
    }
}
