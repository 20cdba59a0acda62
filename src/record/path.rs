//! What two capture points of one path say together.

/// The TCP packets of two capture points, matched.
///
/// The path leads from `near`, on the client's side, to `far`. Direction a2b is from near to far, since `a` opens a connection.
#[derive(Debug, Clone, PartialEq)]
pub struct PathMatch {
    /// The capture on the client's side: its place in [`super::IterationRecord::captures`].
    pub near: usize,
    /// The one on the server's side.
    pub far: usize,
    /// Do both read the same clock? Without that there are no delays.
    pub shared_clock: bool,
    /// a2b and b2a.
    pub directions: [PathDirection; 2],
}

/// One direction of a path.
///
/// `sent` is what passed the point on the sender's side, `received` what passed the other one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PathDirection {
    /// TCP packets sent.
    pub sent: u64,
    /// Their payload in bytes.
    pub sent_bytes: u64,
    /// TCP packets received.
    pub received: u64,
    /// Their payload in bytes.
    pub received_bytes: u64,
    /// What became of them; `None` when a capture is not whole, or more was under way than could be followed.
    pub counts: Option<PathCounts>,
    /// Time from point to point of the packets seen at both; `None` without a shared clock, or without any.
    pub delay: Option<Delay>,
}

/// What became of a direction's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathCounts {
    /// Seen at both points as they are.
    pub both: u64,
    /// Sent, and not, or not all of it, received.
    pub lost: u64,
    /// Received, and not sent.
    pub appeared: u64,
    /// Sent, and received in other packets: split or joined on the way.
    pub sent_resegmented: u64,
    /// Received, and sent in other packets.
    pub received_resegmented: u64,
    /// Of `both`: overtaken.
    pub reordered: u64,
    /// Sent or received, and under way when the captures began or ended, so that nothing can be said.
    pub edge: u64,
}

/// A distribution of times in seconds. Quantiles are by nearest rank; beyond 128 values at most 0.39 % too near to zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Delay {
    /// Number of packets.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation; `None` below two values.
    pub sd: Option<f64>,
    /// Smallest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 95 % quantile.
    pub p95: f64,
    /// 99 % quantile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// The whole distribution, to merge with others (`flow::Sketch`).
    pub sketch: Vec<u8>,
}
