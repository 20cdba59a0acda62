//! The captures of an attempt, which are ended and, where files are kept, recorded also when it does not come to its collect stage.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::instrument::capture::{Analysed, Captures, Flows, Stopped};
use crate::record::{Capture, Problem};

/// How long captures of an attempt that went wrong may take to end. Some 50 ms do, but for a disk or an agent that is slow.
const END_LIMIT: Duration = Duration::from_secs(10);
/// The same where their packets are on disks of nodes, which are closed and brought then.
const END_LIMIT_ON_DISKS: Duration = Duration::from_secs(60);

/// Holds captures outside of the stages, so that a stage that is given up does not take them along.
#[derive(Default)]
pub(super) struct Capturing {
    held: Mutex<Held>,
    on_disks: AtomicBool,
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    /// At so many points.
    Running(Captures<Flows>, usize),
    Ending(JoinHandle<Analysed>, usize),
    Ended(Box<Analysed>, usize),
}

/// What captures left that were not collected.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// With their files, and without statistics of TCP: those are of measurements that came to their end.
    pub(super) captures: Vec<Capture>,
    /// What went wrong.
    pub(super) notes: Vec<String>,
}

type Ending = BoxFuture<'static, Result<(Vec<Capture>, Vec<Problem>), JoinError>>;

impl Capturing {
    /// Takes captures that run at so many points.
    pub(super) async fn hold(&self, captures: Captures<Flows>, points: usize) {
        self.on_disks.store(captures.are_on_disks(), Ordering::Relaxed);
        *self.held.lock().await = Held::Running(captures, points);
    }

    /// Stops and analyses them. They stay held until they are taken, also when nobody waits for this to its end.
    pub(super) async fn stop(&self) -> anyhow::Result<()> {
        let mut guard = self.held.lock().await;
        let held = &mut *guard;
        *held = match std::mem::take(held) {
            Held::Running(captures, points) => Held::Ending(spawn_blocking(move || captures.stop().analyse()), points),
            other => other,
        };
        if let Held::Ending(ending, points) = held {
            let (analysed, points) = (ending.await, *points);
            *held = Held::Nothing;
            *held = Held::Ended(Box::new(analysed?), points);
        }
        Ok(())
    }

    /// What stopped captures brought, and at how many points; `None` when there were none.
    pub(super) async fn take(&self) -> (Option<Analysed>, usize) {
        match std::mem::take(&mut *self.held.lock().await) {
            Held::Ended(analysed, points) => (Some(*analysed), points),
            Held::Nothing | Held::Running(..) | Held::Ending(..) => (None, 0),
        }
    }

    /// Ends those that were not taken, within a limit. Files of those that still ran stay only when they are `wanted`; nothing is
    /// returned of others.
    pub(super) async fn end(&self, wanted: bool) -> Late {
        let ending: Ending = match std::mem::take(&mut *self.held.lock().await) {
            Held::Nothing => return Late::default(),
            Held::Running(captures, _) if wanted => Box::pin(spawn_blocking(move || {
                let Stopped { captures, problems, .. } = captures.stop();
                (captures, problems)
            })),
            Held::Running(captures, _) => Box::pin(spawn_blocking(move || {
                drop(captures);
                Default::default()
            })),
            Held::Ending(ending, _) => {
                Box::pin(async move { ending.await.map(|analysed| (analysed.captures, analysed.problems)) })
            }
            Held::Ended(analysed, _) => Box::pin(async move { Ok((analysed.captures, analysed.problems)) }),
        };
        let note = |text| Late { captures: Vec::new(), notes: vec![text] };
        let on_disks = self.on_disks.load(Ordering::Relaxed);
        let limit = if on_disks { END_LIMIT_ON_DISKS } else { END_LIMIT };
        match tokio::time::timeout(limit, ending).await {
            Err(_) => {
                let limit = limit.as_secs();
                note(format!("the captures have not ended within {limit} s: their files are not recorded"))
            }
            Ok(Err(error)) => note(format!("the captures are lost: {error}")),
            Ok(Ok(_)) if !wanted => Late::default(),
            Ok(Ok((mut captures, problems))) => {
                captures.iter_mut().for_each(|capture| capture.tcp = None);
                Late { captures, notes: problems.into_iter().map(|problem| problem.text).collect() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, Vantage};
    use crate::instrument::capture::{FlowOptions, FlowSinks};
    use crate::spec::CaptureSpec;
    use crate::testbed::{CapturePoint, CaptureSource};

    async fn holding() -> Capturing {
        let points = [CapturePoint {
            node: NodeId::client(1),
            vantage: Vantage::Guest,
            interface: "fake0".to_owned(),
            source: CaptureSource::Synthetic { packets: 100, bytes: 10_000, dropped: 0 },
        }];
        let spec = CaptureSpec {
            snaplen: 128,
            vantage: vec![Vantage::Guest],
            statistics: true,
            connections: false,
            keep: false,
            filter: None,
            ring: None,
        };
        let flows = FlowOptions {
            statistics: true,
            connections: false,
            mtu: None,
            points: 1,
            available: None,
            hold: None,
            fault_after: None,
        };
        let mut sinks = FlowSinks::new(&points, &[flows]);
        let start = Captures::start_with(&points, &spec, None, |point, link| sinks.next(point, link));
        let capturing = Capturing::default();
        capturing.hold(start.unwrap(), 1).await;
        capturing
    }

    #[tokio::test]
    async fn captures_are_returned_once_however_far_they_came() {
        let packets = |captures: &[Capture]| captures.iter().map(|capture| capture.packets).collect::<Vec<_>>();
        let collected = holding().await;
        collected.stop().await.unwrap();
        let (analysed, points) = collected.take().await;
        assert_eq!((packets(&analysed.unwrap().captures), points), (vec![100], 1));
        assert!(collected.end(true).await.captures.is_empty());

        let running = holding().await;
        assert_eq!(packets(&running.end(true).await.captures), [100]);
        assert!(running.take().await.0.is_none());
        assert!(holding().await.end(false).await.captures.is_empty());

        let given_up = holding().await;
        // One that was polled once has begun to stop them.
        tokio::select! {
            biased;
            ended = given_up.stop() => ended.unwrap(),
            () = std::future::ready(()) => {}
        }
        assert!(!matches!(*given_up.held.lock().await, Held::Running(..)));
        assert_eq!(packets(&given_up.end(true).await.captures), [100]);

        let not_taken = holding().await;
        not_taken.stop().await.unwrap();
        assert_eq!(packets(&not_taken.end(true).await.captures), [100]);
    }
}
