//! Load beside the workload: the factors `stress_cpu`, `stress_io` and `stress_mem`, each a number of stress-ng workers on
//! the testbed's host, or in every node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::node::{Command, Node, Process, Stream};
use crate::record::Setting;
use crate::spec::Tuple;
use crate::testbed::Instance;
use crate::workload::{Tool, Version};

/// Factors and the options of stress-ng that they become.
const STRESSORS: [(&str, &str); 3] = [("stress_cpu", "--cpu"), ("stress_io", "--io"), ("stress_mem", "--vm")];
/// How long stress-ng may take to start its workers.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Longer than the numbers of all children of a stress-ng.
const CHILDREN_LIMIT: u64 = 1 << 20;
/// Between two looks at it.
const POLL: Duration = Duration::from_millis(5);

/// Load that is running: in one place on the host, or in each of several nodes.
pub(super) struct Load {
    generators: Vec<Generator>,
    /// How many workers were asked for in each place.
    workers: i64,
}

/// One stress-ng.
struct Generator {
    process: Box<dyn Process>,
    /// Where it runs; `None` for beside the nodes.
    node: Option<Arc<dyn Node>>,
}

/// Does the tuple ask for load?
pub(super) fn wanted(tuple: &Tuple) -> bool {
    !options(tuple).is_empty()
}

/// The program that makes it.
pub(super) fn tool() -> Tool {
    Tool {
        program: "stress-ng".to_owned(),
        package: Some("stress-ng"),
        version: Some(Version::Printed(&["--version"])),
    }
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
    let command = Command { argv, ..Command::default() };
    let mut generators = Vec::new();
    match instance.load_inside() {
        None => {
            let process = instance.spawn_on_host(&command).await.context("cannot start load")?;
            generators.push(Generator { process, node: None });
        }
        Some(nodes) => {
            for node in nodes {
                let process = node.spawn(&command).await.context("cannot start load")?;
                generators.push(Generator { process, node: Some(node) });
            }
        }
    }
    let mut load = Load { generators, workers: workers(tuple) };
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
    /// Waits until all workers run.
    async fn started(&mut self) -> anyhow::Result<()> {
        for generator in &mut self.generators {
            generator.started(self.workers).await?;
        }
        Ok(())
    }

    /// The number of workers, asked for and running, in each place.
    pub(super) async fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for generator in &self.generators {
            let observed = generator.running().await.map(|running| running.to_string());
            let node = generator.node.as_ref().map(|node| node.id());
            settings.push(Setting::compare(node, "stress_workers", Some(self.workers.to_string()), observed));
        }
        settings
    }

    /// Ends the load; each line says of one that it had ended by itself before, so that the workload ran without it.
    pub(super) async fn stop(self) -> anyhow::Result<Vec<String>> {
        let mut early = Vec::new();
        for generator in self.generators {
            early.extend(generator.stop().await?);
        }
        Ok(early)
    }
}

impl Generator {
    /// stress-ng has a child for each worker.
    async fn started(&mut self, workers: i64) -> anyhow::Result<()> {
        loop {
            if self.running().await.is_some_and(|running| running >= workers) {
                return Ok(());
            }
            if let Ok(ended) = tokio::time::timeout(POLL, self.process.wait()).await {
                bail!("stress-ng ended at once with {}: {}", ended?.status, self.last_words());
            }
        }
    }

    /// Workers that run now; `None` when that cannot be read.
    async fn running(&self) -> Option<i64> {
        let pid = self.process.pid()?;
        let Some(node) = &self.node else { return i64::try_from(crate::host::children(pid)?).ok() };
        let listed = node.get(&format!("/proc/{pid}/task/{pid}/children"), CHILDREN_LIMIT).await.ok()?;
        i64::try_from(String::from_utf8_lossy(&listed).split_ascii_whitespace().count()).ok()
    }

    fn last_words(&self) -> String {
        let output = self.process.output(Stream::Err).bytes;
        String::from_utf8_lossy(&output).lines().last().unwrap_or("it said nothing").to_owned()
    }

    async fn stop(mut self) -> anyhow::Result<Option<String>> {
        if let Ok(ended) = tokio::time::timeout(Duration::ZERO, self.process.wait()).await {
            let place = self.node.as_ref().map(|node| format!(" in {}", node.id())).unwrap_or_default();
            return Ok(Some(format!(
                "stress-ng{place} ended during the workload with {}: {}",
                ended?.status,
                self.last_words()
            )));
        }
        self.process.deliver(nix::sys::signal::Signal::SIGTERM as i32).await?;
        if tokio::time::timeout(Duration::from_secs(5), self.process.wait()).await.is_err() {
            self.process.deliver(nix::sys::signal::Signal::SIGKILL as i32).await?;
            self.process.wait().await?;
        }
        Ok(None)
    }
}
