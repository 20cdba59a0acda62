//! What is known of one direction of a connection: the numbers every statistic is made of.

use super::samples::Samples;
use super::visit::Visit;

/// Counters and times of one sender. The names follow tcptrace's columns; `docs/flows.md` says what each counts.
///
/// Times are µs of the capture's clock, and 0 means "never", as in tcptrace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Direction {
    /// TCP packets.
    pub packets: u64,
    /// Packets with ACK.
    pub ack_packets: u64,
    /// Packets with ACK and nothing else.
    pub pure_acks: u64,
    /// Packets with payload.
    pub data_packets: u64,
    /// Their payload.
    pub data_bytes: u64,
    /// Packets with payload and PSH.
    pub push_packets: u64,
    /// Octets not seen before.
    pub unique_bytes: u64,
    /// Largest window advertised, in bytes.
    pub window_max: u64,
    /// Smallest window above 0 advertised, in bytes; 0 without one.
    pub window_min: u64,
    /// Sum of the windows advertised.
    pub window_sum: u64,
    /// Packets since the first with a scaled window.
    pub scaled_packets: u64,
    /// ACKs advertising a window of 0.
    pub zero_windows: u64,
    /// Most octets outstanding.
    pub owin_max: u64,
    /// Fewest octets outstanding above 0; 0 without any.
    pub owin_min: u64,
    /// Sum over [`Self::owin_count`].
    pub owin_sum: u64,
    /// Packets at which outstanding octets were counted.
    pub owin_count: u64,
    /// Octets outstanding × seconds.
    pub owin_weighted: u64,
    /// Octets sent before the peer acknowledged any.
    pub initial_bytes: u64,
    /// Packets sent before the peer acknowledged any octet.
    pub initial_packets: u64,
    /// Payload octets that were not captured.
    pub truncated_bytes: u64,
    /// Packets with such.
    pub truncated_packets: u64,
    /// Ranges acknowledged without an RTT sample of their own.
    pub cumulative_acks: u64,
    /// Duplicate ACKs the peer sent.
    pub duplicate_acks: u64,
    /// RTT of the handshake, in µs.
    pub handshake_rtt: u64,
    /// RTT of this direction's octets.
    pub rtt: Samples,
    /// RTT of full-size segments (tcptrace's notion of size, which takes one octet for 2^32).
    pub full_rtt: Samples,
    /// The size `full_rtt` is about.
    pub full_size: u64,
    /// First packet with payload.
    pub first_data: i64,
    /// Last packet with payload.
    pub last_data: i64,
    /// Last packet.
    pub last_sent: i64,
    /// Longest silence between two packets, in µs.
    pub idle: u64,
    /// Times the sequence numbers wrapped.
    pub wraps: u64,
    /// Largest payload.
    pub segment_max: u32,
    /// Smallest payload above 0; 0 without any.
    pub segment_min: u32,
    /// MSS announced; 0 without.
    pub mss: u32,
    /// Sequence number of the latest SYN.
    pub isn: u32,
    /// Sequence number after the payload of the latest FIN packet.
    pub fin_seq: u32,
    /// Sequence number after the latest packet's payload.
    pub latest: u32,
    /// SYNs, modulo 256.
    pub syns: u8,
    /// FINs, modulo 256.
    pub fins: u8,
    /// RSTs, modulo 256.
    pub resets: u8,
    /// Window-scale shift in force at the end.
    pub scale: u8,
    /// Was a window-scale option seen?
    pub window_scale: bool,
    /// Was a time-stamp option seen?
    pub timestamps: bool,
    /// Was SACK permitted?
    pub sack_permitted: bool,
    /// Was a scaled window seen?
    pub scaled: bool,
    /// What most directions never have.
    rare: Option<Box<Rare>>,
}

/// Numbers that stay 0 in most directions, kept apart so that these stay small.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rare {
    /// Packets with ACK and SACK blocks.
    pub sack_packets: u64,
    /// Of these, those that report a duplicate.
    pub dsack_packets: u64,
    /// Most blocks in one of these.
    pub sack_blocks_max: u64,
    /// Packets with SACK blocks, with or without ACK.
    pub sacks_sent: u64,
    /// Packets with octets sent before.
    pub rexmit_packets: u64,
    /// These octets.
    pub rexmit_bytes: u64,
    /// Zero-window probes.
    pub probe_packets: u64,
    /// Their payload.
    pub probe_bytes: u64,
    /// Packets with new octets below others seen.
    pub out_of_order: u64,
    /// Packets with payload and URG.
    pub urgent_packets: u64,
    /// Sum of their urgent pointers.
    pub urgent_bytes: u64,
    /// Packets with sequence number and IP identification of one of the last eight.
    pub hardware_duplicates: u64,
    /// Fourth ACKs of the same number.
    pub triple_duplicates: u64,
    /// ACKs that give no RTT because a lost segment held them up.
    pub post_loss_acks: u64,
    /// RTT from the last transmission of ranges sent more than once: ambiguous.
    pub last_rtt: Samples,
    /// Time between transmissions of ranges not yet acknowledged.
    pub resend: Samples,
    /// Most resends of one of these, modulo 256.
    pub resend_max: u8,
}

static NOTHING: Rare = Rare::nothing();

impl Rare {
    const fn nothing() -> Self {
        const NONE: Samples = Samples { count: 0, min: 0, max: 0, sum: 0.0, sum_of_squares: 0.0 };
        Self {
            sack_packets: 0,
            dsack_packets: 0,
            sack_blocks_max: 0,
            sacks_sent: 0,
            rexmit_packets: 0,
            rexmit_bytes: 0,
            probe_packets: 0,
            probe_bytes: 0,
            out_of_order: 0,
            urgent_packets: 0,
            urgent_bytes: 0,
            hardware_duplicates: 0,
            triple_duplicates: 0,
            post_loss_acks: 0,
            last_rtt: NONE,
            resend: NONE,
            resend_max: 0,
        }
    }

    fn visit(&mut self, v: &mut impl Visit) {
        for field in [
            &mut self.sack_packets,
            &mut self.dsack_packets,
            &mut self.sack_blocks_max,
            &mut self.sacks_sent,
            &mut self.rexmit_packets,
            &mut self.rexmit_bytes,
            &mut self.probe_packets,
            &mut self.probe_bytes,
            &mut self.out_of_order,
            &mut self.urgent_packets,
            &mut self.urgent_bytes,
            &mut self.hardware_duplicates,
            &mut self.triple_duplicates,
            &mut self.post_loss_acks,
        ] {
            v.u64(field);
        }
        self.last_rtt.visit(v);
        self.resend.visit(v);
        v.u8(&mut self.resend_max);
    }
}

impl Direction {
    /// The numbers most directions do not have; all 0 when there were none.
    #[inline]
    pub fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NOTHING)
    }

    /// The same, to count in.
    #[cold]
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Did it open and close: at least one SYN and one FIN?
    pub const fn opened_and_closed(&self) -> bool {
        self.syns > 0 && self.fins > 0
    }

    pub(super) fn visit(&mut self, v: &mut impl Visit) {
        self.visit_counters(v);
        self.rtt.visit(v);
        self.full_rtt.visit(v);
        for field in [&mut self.first_data, &mut self.last_data, &mut self.last_sent] {
            v.i64(field);
        }
        for field in [
            &mut self.segment_max,
            &mut self.segment_min,
            &mut self.mss,
            &mut self.isn,
            &mut self.fin_seq,
            &mut self.latest,
        ] {
            v.u32(field);
        }
        for field in [&mut self.syns, &mut self.fins, &mut self.resets, &mut self.scale] {
            v.u8(field);
        }
        for field in [&mut self.window_scale, &mut self.timestamps, &mut self.sack_permitted, &mut self.scaled] {
            v.bool(field);
        }
        let mut has_rare = self.rare.is_some();
        v.bool(&mut has_rare);
        if has_rare {
            self.rare_mut().visit(v);
        }
    }

    fn visit_counters(&mut self, v: &mut impl Visit) {
        for field in [
            &mut self.packets,
            &mut self.ack_packets,
            &mut self.pure_acks,
            &mut self.data_packets,
            &mut self.data_bytes,
            &mut self.push_packets,
            &mut self.unique_bytes,
            &mut self.window_max,
            &mut self.window_min,
            &mut self.window_sum,
            &mut self.scaled_packets,
            &mut self.zero_windows,
            &mut self.owin_max,
            &mut self.owin_min,
            &mut self.owin_sum,
            &mut self.owin_count,
            &mut self.owin_weighted,
            &mut self.initial_bytes,
            &mut self.initial_packets,
            &mut self.truncated_bytes,
            &mut self.truncated_packets,
            &mut self.cumulative_acks,
            &mut self.duplicate_acks,
            &mut self.handshake_rtt,
            &mut self.full_size,
            &mut self.idle,
            &mut self.wraps,
        ] {
            v.u64(field);
        }
    }
}
