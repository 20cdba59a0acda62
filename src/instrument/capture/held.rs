//! Headers of packets that a node holds back until its host wants them.
//!
//! The capture's thread adds chunks, a task takes them out and sends them. As long as less than half of the memory is used,
//! nothing is sent before the capture ends: sending costs the node's CPUs. Beyond that the oldest are sent, and when
//! all of the memory is used, the capture's thread waits; then the kernel's ring fills, and what it drops it counts.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::flows::spool::CHUNK_BYTES;

/// How the headers of a capture were held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Holding {
    /// Bytes of memory used for them, at most.
    pub peak: u64,
    /// Bytes that might be used.
    pub limit: u64,
    /// Bytes sent before the capture ended.
    pub early: u64,
}

/// Memory for the headers of one of `captures` on a node: what was asked for, or a quarter of what is free (64 MiB where that is
/// not known), and two chunks at the least.
pub(super) fn hold_bytes(asked: Option<u64>, captures: usize, available: Option<u64>) -> u64 {
    let captures = u64::try_from(captures).unwrap_or(u64::MAX).max(1);
    let own = available.map_or(64 << 20, |bytes| bytes / 4) / captures;
    asked.unwrap_or(own).max(2 * CHUNK_BYTES as u64)
}

/// Makes the two ends.
pub(super) fn held(limit: u64) -> (Holder, Outlet) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State { holding: Holding { limit, ..Holding::default() }, ..State::default() }),
        room: Condvar::new(),
        news: Notify::new(),
    });
    (Holder(Arc::clone(&shared)), Outlet(shared))
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There may be room.
    room: Condvar,
    /// There may be something to send.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Vec<u8>>,
    used: u64,
    holding: Holding,
    ended: bool,
    /// Nobody sends any more.
    abandoned: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The capture's end. Dropping it says that there is no more.
#[derive(Debug)]
pub(super) struct Holder(Arc<Shared>);

impl Holder {
    /// Adds a chunk. Waits until there is room for it; where nobody takes chunks any more, it is thrown away.
    pub(super) fn push(&self, chunk: Vec<u8>) {
        let mut state = self.0.state();
        let full = |state: &mut State| state.used + CHUNK_BYTES as u64 > state.holding.limit && !state.abandoned;
        state = self.0.room.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        if state.abandoned {
            return;
        }
        state.used += CHUNK_BYTES as u64;
        state.holding.peak = state.holding.peak.max(state.used);
        state.chunks.push_back(chunk);
        drop(state);
        self.0.news.notify_one();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.news.notify_one();
    }
}

/// The sender's end. Dropping it throws away what is held.
#[derive(Debug)]
pub(crate) struct Outlet(Arc<Shared>);

impl Outlet {
    /// The next chunk that is to be sent now; `None` when all have been. Its memory counts as used until the next call.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.0.state();
                if state.ended || state.used >= state.holding.limit / 2 {
                    if let Some(chunk) = state.chunks.pop_front() {
                        state.used -= CHUNK_BYTES as u64;
                        if !state.ended {
                            state.holding.early += chunk.len() as u64;
                        }
                        drop(state);
                        self.0.room.notify_one();
                        return Some(chunk);
                    }
                    if state.ended {
                        return None;
                    }
                }
            }
            self.0.news.notified().await;
        }
    }

    /// How they were held until now.
    pub(crate) fn holding(&self) -> Holding {
        self.0.state().holding
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.abandoned = true;
        state.chunks.clear();
        drop(state);
        self.0.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const CHUNK: u64 = CHUNK_BYTES as u64;

    fn now(outlet: &mut Outlet) -> Poll<Option<Vec<u8>>> {
        Box::pin(outlet.next()).as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn nothing_goes_before_half_is_used_and_everything_at_the_end() {
        let (holder, mut outlet) = held(4 * CHUNK);
        holder.push(vec![1]);
        assert_eq!(now(&mut outlet), Poll::Pending);
        holder.push(vec![2, 2]);
        assert_eq!(now(&mut outlet), Poll::Ready(Some(vec![1])));
        assert_eq!(now(&mut outlet), Poll::Pending);
        drop(holder);
        assert_eq!(now(&mut outlet), Poll::Ready(Some(vec![2, 2])));
        assert_eq!(now(&mut outlet), Poll::Ready(None));
        assert_eq!(outlet.holding(), Holding { peak: 2 * CHUNK, limit: 4 * CHUNK, early: 1 });
    }

    #[test]
    fn a_full_one_holds_up_the_capture_until_somebody_sends_or_goes() {
        let (holder, mut outlet) = held(2 * CHUNK);
        let pushing = std::thread::spawn(move || {
            (0..100).for_each(|i| holder.push(vec![i]));
            holder
        });
        let mut taken = Vec::new();
        while taken.len() < 50 {
            if let Poll::Ready(Some(chunk)) = now(&mut outlet) {
                taken.extend(chunk);
            }
            std::thread::yield_now();
        }
        assert_eq!(taken, (0..50).collect::<Vec<u8>>());
        assert!(outlet.holding().peak <= 2 * CHUNK);
        drop(outlet);
        drop(pushing.join().unwrap());
    }

    #[test]
    fn a_quarter_of_the_free_memory_is_shared() {
        let cases = [
            (None, 1, Some(400 << 20), 100 << 20),
            (None, 2, Some(400 << 20), 50 << 20),
            (None, 1, None, 64 << 20),
            (None, 1, Some(0), 2 * CHUNK),
            (Some(1 << 20), 4, Some(0), 1 << 20),
        ];
        for (asked, captures, available, expected) in cases {
            assert_eq!(hold_bytes(asked, captures, available), expected, "{asked:?} {captures} {available:?}");
        }
    }
}
