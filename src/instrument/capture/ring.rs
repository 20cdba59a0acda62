//! How large the kernel's ring of a capture is.

use std::fs;

/// Ring of one point when memory allows: 0.3 s of packets at 10^6 packets/s and the default snap length.
const DEFAULT: u64 = 64 << 20;
/// Ring of one point at the least, however many there are.
const FLOOR: u64 = 4 << 20;
/// All rings together at the most.
const BUDGET: u64 = 512 << 20;
/// libpcap takes the size as a C int.
const CEILING: u64 = (1 << 31) - 1;

/// Bytes of ring for each of `points` captures.
///
/// `asked` is the spec's own value and is only cut to what libpcap accepts (2 GiB − 1). Otherwise all rings share the
/// smaller of 512 MiB and an eighth of `available` memory: at most 64 MiB each, and at least 4 MiB each.
/// `available` is `None` when it is not known, which leaves the 512 MiB.
pub fn ring_bytes(points: usize, asked: Option<u64>, available: Option<u64>) -> u64 {
    if let Some(bytes) = asked {
        return bytes.min(CEILING);
    }
    let budget = available.map_or(BUDGET, |bytes| BUDGET.min(bytes / 8));
    let points = u64::try_from(points).unwrap_or(u64::MAX).max(1);
    (budget / points).clamp(FLOOR, DEFAULT)
}

/// `MemAvailable` of `/proc/meminfo` in bytes; `None` when it cannot be read.
pub fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_share_a_budget() {
        const MIB: u64 = 1 << 20;
        let cases = [
            (1, None, Some(24_000 * MIB), 64 * MIB),
            (8, None, Some(24_000 * MIB), 64 * MIB),
            (16, None, Some(24_000 * MIB), 32 * MIB),
            (80, None, Some(24_000 * MIB), 512 * MIB / 80),
            (1000, None, Some(24_000 * MIB), 4 * MIB),
            (2, None, Some(512 * MIB), 32 * MIB),
            (2, None, Some(0), 4 * MIB),
            (0, None, None, 64 * MIB),
            (80, Some(64 * MIB), Some(0), 64 * MIB),
            (1, Some(u64::MAX), None, CEILING),
        ];
        for (points, asked, available, expected) in cases {
            assert_eq!(ring_bytes(points, asked, available), expected, "{points} points, {asked:?}, {available:?}");
        }
    }
}
