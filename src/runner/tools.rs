//! Are the programs there that the iterations to be run will start?

use std::time::Duration;

use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};

use super::campaign::CampaignError;
use super::load;
use crate::host::cage::{Cage, Job};
use crate::ids::IterationNumber;
use crate::node::{Command, Node, Process as _, Stream};
use crate::plan::Plan;
use crate::record::Environment;
use crate::testbed::{self, Pair};
use crate::workload::{self, Tool, Version, check_tools, find_in_path};

/// How long a program may take to print its version.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// Refuses a run for which a program is missing, naming all that are, each with its package.
pub(super) fn check(tools: &[Tool]) -> Result<(), CampaignError> {
    let missing = check_tools(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(CampaignError::Missing(lines.join("; ")))
}

/// What the programs say of their versions: name and the first line of what they print. A program that does not say has
/// no entry.
pub(super) async fn versions(tools: &[Tool]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let Ok(mut cage) = Cage::open_or_groups() else { return found };
    for tool in tools {
        let version = match tool.version {
            Some(Version::Printed(arguments)) => {
                let argv = [tool.program.as_str()].iter().chain(arguments).map(|&word| word.to_owned()).collect();
                first_line(&cage, argv).await
            }
            Some(Version::Sha256) => sha256(&tool.program).await,
            None => None,
        };
        found.extend(version.map(|version| (tool.program.clone(), version)));
    }
    if let Err(error) = cage.close().await {
        tracing::warn!("cannot end the programs that were asked for their versions: {error}");
    }
    found
}

/// `sha256 HASH` of the program's file.
async fn sha256(program: &str) -> Option<String> {
    let path = find_in_path(program)?;
    let content = tokio::task::spawn_blocking(|| std::fs::read(path)).await.ok()?.ok()?;
    let hash: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256 {hash}"))
}

async fn first_line(cage: &Cage, argv: Vec<String>) -> Option<String> {
    let command = Command { argv, ..Command::default() };
    let mut child = cage.spawn(Job { command, directory: "/".into(), namespace: None }).await.ok()?;
    tokio::time::timeout(VERSION_LIMIT, child.wait()).await.ok()?.ok()?;
    let said = [Stream::Out, Stream::Err].map(|stream| child.output(stream).bytes);
    first_of(&said)
}

/// What the programs on nodes of their own say of their versions, with the node as host. A program that is not there, or does
/// not say, has no entry.
pub(super) async fn on_nodes(pairs: &[Pair], tools: &[Tool]) -> Vec<Environment> {
    let nodes = pairs.iter().flat_map(|pair| [&pair.client, &pair.server]);
    let all = nodes.map(|node| async move {
        let mut found = Vec::new();
        for tool in tools {
            let (host, name) = (node.id().to_string(), format!("{}.version", tool.program));
            found.extend(on_node(node.as_ref(), tool).await.map(|value| Environment { host, name, value }));
        }
        found
    });
    join_all(all).await.into_iter().flatten().collect()
}

async fn on_node(node: &dyn Node, tool: &Tool) -> Option<String> {
    let word = |&word: &&str| word.to_owned();
    let argv: Vec<String> = match tool.version? {
        Version::Printed(arguments) => [tool.program.as_str()].iter().chain(arguments).map(word).collect(),
        // Not all shells' own `command` is where the node looks for programs; `PATH` is.
        Version::Sha256 => {
            ["sh", "-c", "exec sha256sum \"$(command -v \"$1\")\"", "sh", &tool.program].iter().map(word).collect()
        }
    };
    let mut process = node.spawn(&Command { argv, ..Command::default() }).await.ok()?;
    let Ok(Ok(_)) = tokio::time::timeout(VERSION_LIMIT, process.wait()).await else {
        let _ = process.signal(libc::SIGKILL);
        return None;
    };
    let said = [Stream::Out, Stream::Err].map(|stream| process.output(stream).bytes);
    let line = first_of(&said)?;
    match tool.version? {
        Version::Printed(_) => Some(crate::text::printable(&line, 200)),
        Version::Sha256 => {
            let hash = line.split_whitespace().next().filter(|hash| hash.len() == 64)?;
            hash.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| format!("sha256 {hash}"))
        }
    }
}

fn first_of(said: &[Vec<u8>; 2]) -> Option<String> {
    let text = said.iter().find(|bytes| !bytes.is_empty())?;
    String::from_utf8_lossy(text).lines().next().map(|line| line.trim().to_owned())
}

/// Programs for these iterations, each once.
pub(super) fn needed(plan: &Plan, to_do: &[IterationNumber]) -> Result<Vec<Tool>, CampaignError> {
    let mut tuples = vec![false; plan.tuples.len()];
    for number in to_do {
        let index = usize::try_from(number.0).ok().and_then(|n| n.checked_sub(1));
        if let Some(slot) = index.and_then(|index| plan.iterations.get(index)) {
            tuples[slot.tuple as usize] = true;
        }
    }
    let mut tools = Vec::new();
    for (planned, _) in plan.tuples.iter().zip(tuples).filter(|(_, wanted)| *wanted) {
        let testbed = testbed::by_name(planned.tuple.testbed(), &plan.spec.testbed)?;
        let mut these = workload::from_spec(&plan.spec.workload).tools();
        these.extend(load::wanted(&planned.tuple).then(load::tool));
        these.retain(|tool| !testbed.provides(&tool.program));
        for tool in these {
            if !tools.contains(&tool) {
                tools.push(tool);
            }
        }
    }
    Ok(tools)
}
