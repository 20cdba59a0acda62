//! Rows of what captures say about TCP, back to values.

use super::decode::{Columns, Decoded};
use super::raw::Row;
use crate::flow::STATISTICS;
use crate::ids::Direction;
use crate::record::{Connection, ConnectionStatistic, SeriesBin, Stall, Tcp, TcpDirection};

/// A row's capture and what it holds.
type Of<T> = (usize, T);

impl Columns<'_> {
    fn direction(&mut self) -> Decoded<Direction> {
        self.named("direction", Direction::from_name)
    }

    fn opt_direction(&mut self) -> Decoded<Option<Direction>> {
        let Some(name) = self.opt_str()? else { return Ok(None) };
        Direction::from_name(name).map_or_else(|| self.wrong("direction"), |direction| Ok(Some(direction)))
    }

    fn flag(&mut self) -> Decoded<bool> {
        match self.int::<i64>()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => self.wrong("0 or 1"),
        }
    }
}

/// Without what stands in the other tables.
pub(super) fn tcp(row: &Row<'_>) -> Decoded<Of<Tcp>> {
    let c = &mut Columns::new(row, 1);
    let capture = c.int()?;
    let (connections, complete, reset, ended_early) = (c.int()?, c.int()?, c.int()?, c.int()?);
    let (duration_ns, packets, first_ns, mtu) = (c.int()?, c.int()?, c.opt_int()?, c.opt_int()?);
    let (bin_ms, stalls, stalled_ns, longest_stall_ns) = (c.int()?, c.int()?, c.int()?, c.opt_int()?);
    let tcp = Tcp {
        connections,
        complete,
        reset,
        ended_early,
        duration_ns,
        packets,
        first_ns,
        mtu,
        directions: Default::default(),
        statistics: Vec::new(),
        bin_ms,
        series: Vec::new(),
        stalls,
        stalled_ns,
        longest_stall_ns,
        first_stalls: Vec::new(),
        rows: Vec::new(),
    };
    Ok((capture, tcp))
}

pub(super) fn direction(row: &Row<'_>) -> Decoded<Of<(Direction, TcpDirection)>> {
    let c = &mut Columns::new(row, 1);
    let (capture, direction) = (c.int()?, c.direction()?);
    let numbers = TcpDirection {
        packets: c.int()?,
        data_packets: c.int()?,
        data_bytes: c.int()?,
        longest: c.opt_int()?,
        super_segments: c.opt_int()?,
        super_bytes: c.opt_int()?,
        super_on_wire: c.opt_int()?,
        unbinned: c.int()?,
    };
    Ok((capture, (direction, numbers)))
}

pub(super) fn statistic(row: &Row<'_>) -> Decoded<Of<ConnectionStatistic>> {
    let capture = Columns::new(row, 1).int()?;
    let c = &mut Columns::new(row, 3);
    let statistic = ConnectionStatistic {
        direction: c.direction()?,
        name: c.string()?,
        unit: c.string()?,
        count: c.int()?,
        sum: c.opt_real()?,
        mean: c.opt_real()?,
        sd: c.opt_real()?,
        min: c.opt_real()?,
        p5: c.opt_real()?,
        p25: c.opt_real()?,
        median: c.opt_real()?,
        p75: c.opt_real()?,
        p95: c.opt_real()?,
        p99: c.opt_real()?,
        max: c.opt_real()?,
        sketch: c.opt_blob()?,
    };
    Ok((capture, statistic))
}

pub(super) fn series(row: &Row<'_>) -> Decoded<Of<SeriesBin>> {
    let c = &mut Columns::new(row, 1);
    let capture = c.int()?;
    Ok((capture, SeriesBin { direction: c.direction()?, at_ms: c.int()?, packets: c.int()?, bytes: c.int()? }))
}

pub(super) fn stall(row: &Row<'_>) -> Decoded<Of<Stall>> {
    let capture = Columns::new(row, 1).int()?;
    let c = &mut Columns::new(row, 3);
    let (connection, from_ns, duration_ns) = (c.int()?, c.opt_int()?, c.int()?);
    Ok((capture, Stall { connection, from_ns, duration_ns, ended_by: c.opt_direction()? }))
}

/// Without its values.
pub(super) fn connection(row: &Row<'_>) -> Decoded<Of<Connection>> {
    let c = &mut Columns::new(row, 1);
    let (capture, number) = (c.int()?, c.int()?);
    let a = (c.parsed("address")?, c.int()?);
    let b = (c.parsed("address")?, c.int()?);
    let (first_ns, last_ns, complete, reset) = (c.opt_int()?, c.opt_int()?, c.flag()?, c.flag()?);
    Ok((capture, Connection { number, a, b, first_ns, last_ns, complete, reset, values: Default::default() }))
}

/// Number of a connection, direction and values.
type Values = (u64, Direction, Vec<Option<f64>>);

pub(super) fn values(row: &Row<'_>) -> Decoded<Of<Values>> {
    let c = &mut Columns::new(row, 1);
    let (capture, number, direction) = (c.int()?, c.int()?, c.direction()?);
    let values = STATISTICS.iter().map(|_| c.opt_real()).collect::<Decoded<_>>()?;
    Ok((capture, (number, direction, values)))
}
