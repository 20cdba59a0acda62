//! Files of the nodes that the spec wants to have kept: `NNNNNN-HASH.d/NODE/PATH`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use crate::host::clock::now_ns;
use crate::ids::Stage;
use crate::node::Node;
use crate::record::{Event, EventLevel};
use crate::spec::Tuple;
use crate::testbed::Instance;
use crate::workload::{PairContext, Workload};

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Files that are not there as they should be, each with the reason.
    pub(super) problems: Vec<String>,
    pub(super) events: Vec<Event>,
}

/// Brings all of them from their nodes. `scratch` and `artifacts` are on one file system.
///
/// # Errors
/// Only when the paths cannot be made; a file that cannot be kept is a problem in the result.
pub(super) async fn keep(
    workload: &dyn Workload,
    tuple: &Tuple,
    instance: &mut dyn Instance,
    scratch: &Path,
    artifacts: &Path,
) -> anyhow::Result<Kept> {
    let mut kept = Kept::default();
    for pair in instance.pairs().to_vec() {
        let wanted = workload.keep(&PairContext {
            pair: pair.number,
            tuple,
            server: pair.server.address(),
            port: workload.default_port(),
            client_scratch: pair.client.scratch(),
            server_scratch: pair.server.scratch(),
            vptest: pair.server.vptest(),
        })?;
        let of_client = wanted.client.into_iter().map(|path| (&pair.client, path));
        for (node, path) in of_client.chain(wanted.server.into_iter().map(|path| (&pair.server, path))) {
            match keep_one(node, &path, instance, scratch, artifacts).await {
                Ok(text) => {
                    kept.events.push(Event { at_ns: now_ns(), stage: Stage::Collect, level: EventLevel::Info, text });
                }
                Err(error) => kept.problems.push(format!("{}: cannot keep {path}: {error:#}", node.id())),
            }
        }
    }
    Ok(kept)
}

/// Says where the file is.
async fn keep_one(
    node: &Arc<dyn Node>,
    path: &str,
    instance: &mut dyn Instance,
    scratch: &Path,
    artifacts: &Path,
) -> anyhow::Result<String> {
    let home = node.scratch();
    let there = if path.starts_with('/') { path.to_owned() } else { format!("{home}/{path}") };
    // A value that was put in may have brought it.
    anyhow::ensure!(there.split('/').all(|part| part != ".."), "`..` in the path");
    anyhow::ensure!(node.exists(&there).await?, "it is not there");
    // On the same file system as the results, so that nothing is copied a second time.
    let parcel = scratch.join("kept");
    std::fs::create_dir_all(&parcel).with_context(|| format!("cannot create {}", parcel.display()))?;
    let collected = instance.collect(node.id(), std::slice::from_ref(&there), &parcel).await;
    let moved = collected.map_err(anyhow::Error::from).and_then(|files| {
        anyhow::ensure!(!files.is_empty(), "there is no file in it");
        let mut bytes = 0;
        for file in &files {
            let name = file.strip_prefix(&parcel).context("it came to another place")?;
            // What is below the scratch directory is named as the spec has it.
            let name = name.strip_prefix(home.trim_start_matches('/')).unwrap_or(name);
            let target = artifacts.join(node.id().to_string()).join(name);
            let made = target.parent().map_or(Ok(()), std::fs::create_dir_all);
            made.and_then(|()| std::fs::rename(file, &target))
                .with_context(|| format!("cannot move it to {}", target.display()))?;
            bytes += target.metadata().with_context(|| format!("cannot look at {}", target.display()))?.len();
        }
        Ok(format!("{}: kept {path}, {bytes} bytes", node.id()))
    });
    if let Err(error) = std::fs::remove_dir_all(&parcel) {
        tracing::warn!("cannot remove {}: {error}", parcel.display());
    }
    moved
}
