//! Load beside the workload: the factors `stress_cpu`, `stress_io` and `stress_mem`, each a number of stress-ng workers on
//! the testbed's host.

use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::node::{Command, Process, Stream};
use crate::record::Setting;
use crate::spec::Tuple;
use crate::testbed::Instance;
use crate::workload::Tool;

/// Factors and the options of stress-ng that they become.
const STRESSORS: [(&str, &str); 3] = [("stress_cpu", "--cpu"), ("stress_io", "--io"), ("stress_mem", "--vm")];
/// How long stress-ng may take to start its workers.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at its output.
const POLL: Duration = Duration::from_millis(5);

/// Load that is running.
pub(super) struct Load {
    process: Box<dyn Process>,
    /// How many were asked for.
    workers: i64,
}

/// Does the tuple ask for load?
pub(super) fn wanted(tuple: &Tuple) -> bool {
    !options(tuple).is_empty()
}

/// The program that makes it.
pub(super) fn tool() -> Tool {
    Tool { program: "stress-ng".to_owned(), package: Some("stress-ng"), version: Some(&["--version"]) }
}

fn options(tuple: &Tuple) -> Vec<String> {
    let workers = |&(factor, option): &(&str, &str)| {
        let count = tuple.integer(factor).filter(|&count| count > 0)?;
        Some([option.to_owned(), count.to_string()])
    };
    STRESSORS.iter().filter_map(workers).flatten().collect()
}

/// Starts what the tuple asks for and returns when all workers have been started; `None` when it asks for nothing.
pub(super) async fn start(tuple: &Tuple, instance: &mut dyn Instance) -> anyhow::Result<Option<Load>> {
    let options = options(tuple);
    if options.is_empty() {
        return Ok(None);
    }
    // No limit of its own: it ends with the workload, at the latest with the testbed.
    let argv = ["stress-ng".to_owned(), "--timeout".to_owned(), "0".to_owned()].into_iter().chain(options).collect();
    let process = instance.spawn_on_host(&Command { argv, ..Command::default() }).await.context("cannot start load")?;
    let mut load = Load { process, workers: workers(tuple) };
    tokio::time::timeout(START_LIMIT, load.started())
        .await
        .with_context(|| format!("stress-ng did not start its workers within {} s", START_LIMIT.as_secs()))??;
    Ok(Some(load))
}

/// Workers of all kinds together.
fn workers(tuple: &Tuple) -> i64 {
    STRESSORS.iter().filter_map(|(factor, _)| tuple.integer(factor)).sum()
}

impl Load {
    /// Waits until all workers run: stress-ng has a child for each.
    async fn started(&mut self) -> anyhow::Result<()> {
        loop {
            if self.running().is_some_and(|running| running >= self.workers) {
                return Ok(());
            }
            if let Ok(ended) = tokio::time::timeout(POLL, self.process.wait()).await {
                bail!("stress-ng ended at once with {}: {}", ended?.status, self.last_words());
            }
        }
    }

    /// Workers that run now; `None` when that cannot be read.
    fn running(&self) -> Option<i64> {
        i64::try_from(crate::host::children(self.process.pid()?)?).ok()
    }

    /// The number of workers, asked for and running.
    pub(super) fn setting(&self) -> Setting {
        let observed = self.running().map(|running| running.to_string());
        Setting::compare(None, "stress_workers", Some(self.workers.to_string()), observed)
    }

    fn last_words(&self) -> String {
        let output = self.process.output(Stream::Err).bytes;
        String::from_utf8_lossy(&output).lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// Ends the load; `Some` says that it had ended by itself before, so that the workload ran without it.
    pub(super) async fn stop(mut self) -> anyhow::Result<Option<String>> {
        if let Ok(ended) = tokio::time::timeout(Duration::ZERO, self.process.wait()).await {
            return Ok(Some(format!(
                "stress-ng ended during the workload with {}: {}",
                ended?.status,
                self.last_words()
            )));
        }
        self.process.signal(nix::sys::signal::Signal::SIGTERM as i32)?;
        if tokio::time::timeout(Duration::from_secs(5), self.process.wait()).await.is_err() {
            self.process.signal(nix::sys::signal::Signal::SIGKILL as i32)?;
            self.process.wait().await?;
        }
        Ok(None)
    }
}
