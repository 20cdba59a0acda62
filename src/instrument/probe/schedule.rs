//! When packets are due. Pure: the time comes from the caller.

/// Slots at equal distances. One that has passed when the next is due is missed, not made up for: packets in a row would
/// measure each other.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    begin_ns: i64,
    interval_ns: i64,
    next: i64,
    missed: u64,
}

impl Schedule {
    /// The first slot is at `begin_ns`.
    pub(super) const fn new(begin_ns: i64, interval_ns: i64) -> Self {
        Self { begin_ns, interval_ns, next: 0, missed: 0 }
    }

    const fn due(&self) -> i64 {
        self.begin_ns.saturating_add(self.next.saturating_mul(self.interval_ns))
    }

    /// Nanoseconds until the next slot; 0 when it is due.
    pub(super) fn wait(&self, now_ns: i64) -> i64 {
        self.due().saturating_sub(now_ns).max(0)
    }

    /// Takes the newest slot that is due, and says how late that is; `None` when none is.
    pub(super) fn take(&mut self, now_ns: i64) -> Option<u64> {
        let behind = now_ns.checked_sub(self.due()).filter(|&behind| behind >= 0)?;
        let passed = behind / self.interval_ns;
        self.missed += passed.unsigned_abs();
        self.next += passed + 1;
        Some((behind % self.interval_ns).unsigned_abs())
    }

    /// Nothing is sent any more: slots whose whole interval has passed by now were missed.
    pub(super) fn close(&mut self, now_ns: i64) {
        let passed = now_ns.saturating_sub(self.due()).max(0) / self.interval_ns;
        self.missed += passed.unsigned_abs();
        self.next += passed;
    }

    /// Slots so far, the missed ones included.
    pub(super) const fn slots(&self) -> u64 {
        self.next.unsigned_abs()
    }

    /// Slots that nobody took in time.
    pub(super) const fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_once_and_missed_ones_counted() {
        let mut schedule = Schedule::new(1000, 10);
        assert_eq!((schedule.take(999), schedule.wait(990)), (None, 10));
        assert_eq!(schedule.take(1000), Some(0));
        assert_eq!((schedule.take(1009), schedule.wait(1009)), (None, 1));
        assert_eq!(schedule.take(1013), Some(3), "late");
        assert_eq!(schedule.take(1045), Some(5), "1020 and 1030 have passed, 1040 is taken");
        assert_eq!((schedule.slots(), schedule.missed()), (5, 2));
        assert_eq!(schedule.wait(1045), 5);
    }

    #[test]
    fn slots_overdue_at_the_end_are_missed() {
        let mut schedule = Schedule::new(1000, 10);
        schedule.close(995);
        assert_eq!((schedule.slots(), schedule.missed()), (0, 0), "before the first");
        assert_eq!(schedule.take(1000), Some(0));
        schedule.close(1009);
        assert_eq!((schedule.slots(), schedule.missed()), (1, 0));
        schedule.close(1039);
        assert_eq!(
            (schedule.slots(), schedule.missed()),
            (3, 2),
            "1010 and 1020 have passed, 1030 could still be taken"
        );
        schedule.close(1039);
        assert_eq!((schedule.slots(), schedule.missed()), (3, 2), "once");
    }
}
