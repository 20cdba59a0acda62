//! Work for all processors, with results in the order of the tasks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `task(0)`, `task(1)`, … on `threads` threads; the results do not depend on how many there are.
pub(crate) fn all<T: Send>(tasks: usize, threads: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let slots: Vec<Mutex<Option<T>>> = (0..tasks).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, tasks.max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slot) = slots.get(index) else { return };
                    let result = task(index);
                    *slot.lock().expect("no task holds a lock while it works") = Some(result);
                }
            });
        }
    });
    let result = |slot: Mutex<Option<T>>| slot.into_inner().expect("as above").expect("every task was taken");
    slots.into_iter().map(result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order() {
        for threads in [0, 1, 3] {
            assert!(all(100, threads, |i| i * i).into_iter().eq((0..100).map(|i| i * i)));
            assert!(all(0, threads, |i| i).is_empty());
        }
    }
}
