//! Rows of what captures say about TCP.

use rusqlite::types::ValueRef;

use super::rows::{count, opt_count, opt_int, opt_real, opt_text, position, text};
use super::schema::TableId;
use crate::flow::STATISTICS;
use crate::ids::Direction;
use crate::record::{Capture, Connection, ConnectionStatistic, Tcp};

/// Hands over the rows of each table, all captures of one before the next table.
pub(super) fn emit<E>(
    captures: &[Capture],
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    let of_each = || captures.iter().enumerate().filter_map(|(i, c)| Some((position(i), c.tcp.as_ref()?)));
    for (capture, tcp) in of_each() {
        sink(TableId::Tcp, &totals(capture, tcp))?;
    }
    for (capture, tcp) in of_each() {
        for (direction, d) in Direction::ALL.iter().zip(&tcp.directions) {
            let row = [
                capture,
                text(direction.as_str()),
                count(d.packets),
                count(d.data_packets),
                count(d.data_bytes),
                opt_int(d.longest.map(i64::from)),
                opt_count(d.super_segments),
                opt_count(d.super_bytes),
                opt_count(d.super_on_wire),
                count(d.unbinned),
            ];
            sink(TableId::TcpDirection, &row)?;
        }
    }
    for (capture, tcp) in of_each() {
        for (i, s) in tcp.statistics.iter().enumerate() {
            sink(TableId::ConnectionStatistic, &statistic(capture, i, s))?;
        }
    }
    for (capture, tcp) in of_each() {
        for bin in &tcp.series {
            let at = ValueRef::Integer(bin.at_ms);
            sink(
                TableId::TcpSeries,
                &[capture, text(bin.direction.as_str()), at, count(bin.packets), count(bin.bytes)],
            )?;
        }
    }
    for (capture, tcp) in of_each() {
        for (i, stall) in tcp.first_stalls.iter().enumerate() {
            let row = [
                capture,
                position(i),
                count(stall.connection),
                opt_int(stall.from_ns),
                count(stall.duration_ns),
                opt_text(stall.ended_by.map(Direction::as_str)),
            ];
            sink(TableId::TcpStall, &row)?;
        }
    }
    for (capture, tcp) in of_each() {
        for connection in &tcp.rows {
            emit_connection(capture, connection, sink)?;
        }
    }
    for (capture, tcp) in of_each() {
        for connection in &tcp.rows {
            emit_values(capture, connection, sink)?;
        }
    }
    Ok(())
}

fn totals<'a>(capture: ValueRef<'a>, tcp: &Tcp) -> [ValueRef<'a>; 13] {
    [
        capture,
        count(tcp.connections),
        count(tcp.complete),
        count(tcp.reset),
        count(tcp.ended_early),
        count(tcp.duration_ns),
        count(tcp.packets),
        opt_int(tcp.first_ns),
        opt_int(tcp.mtu.map(i64::from)),
        ValueRef::Integer(tcp.bin_ms.into()),
        count(tcp.stalls),
        count(tcp.stalled_ns),
        opt_count(tcp.longest_stall_ns),
    ]
}

fn statistic<'a>(capture: ValueRef<'a>, i: usize, s: &'a ConnectionStatistic) -> [ValueRef<'a>; 18] {
    [
        capture,
        position(i),
        text(s.direction.as_str()),
        text(&s.name),
        text(&s.unit),
        count(s.count),
        opt_real(s.sum),
        opt_real(s.mean),
        opt_real(s.sd),
        opt_real(s.min),
        opt_real(s.p5),
        opt_real(s.p25),
        opt_real(s.median),
        opt_real(s.p75),
        opt_real(s.p95),
        opt_real(s.p99),
        opt_real(s.max),
        s.sketch.as_deref().map_or(ValueRef::Null, ValueRef::Blob),
    ]
}

fn emit_connection<E>(
    capture: ValueRef<'_>,
    c: &Connection,
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    let (a, b) = (c.a.0.to_string(), c.b.0.to_string());
    let row = [
        capture,
        count(c.number),
        text(&a),
        ValueRef::Integer(c.a.1.into()),
        text(&b),
        ValueRef::Integer(c.b.1.into()),
        opt_int(c.first_ns),
        opt_int(c.last_ns),
        ValueRef::Integer(c.complete.into()),
        ValueRef::Integer(c.reset.into()),
    ];
    sink(TableId::Connection, &row)
}

fn emit_values<E>(
    capture: ValueRef<'_>,
    c: &Connection,
    sink: &mut impl FnMut(TableId, &[ValueRef<'_>]) -> Result<(), E>,
) -> Result<(), E> {
    for (direction, values) in Direction::ALL.iter().zip(&c.values) {
        let mut row: Vec<ValueRef<'_>> = Vec::with_capacity(3 + STATISTICS.len());
        row.extend([capture, count(c.number), text(direction.as_str())]);
        row.extend(values.iter().map(|value| opt_real(*value)));
        sink(TableId::ConnectionDirection, &row)?;
    }
    Ok(())
}
