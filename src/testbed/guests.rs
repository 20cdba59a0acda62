//! What testbeds have in common whose nodes are guests with an agent.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Path;
use super::lan::topology::Topology;
use crate::agent::Client;
use crate::ids::NodeId;
use crate::record::Environment;

/// How long a guest's network card may take to find its link.
const LINK_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks.
const POLL: Duration = Duration::from_millis(10);
/// Hops looked at beyond the expected ones.
const EXCESS_HOPS: usize = 4;
/// Round trips by which clocks are compared.
const CLOCK_ROUNDS: u32 = 16;

/// Waits until an interface in the guest is up: some drivers find out about the link some time after they are switched
/// on. One that does not say counts as up.
///
/// # Errors
/// In words.
pub(super) async fn await_link(client: &Client, interface: &str) -> Result<(), String> {
    let deadline = Instant::now() + LINK_LIMIT;
    loop {
        let readings = client.settings(interface).await.map_err(|error| error.to_string())?;
        let state = readings.iter().find(|r| r.name == "operstate").and_then(|r| r.value.as_deref());
        match state {
            Some("up" | "unknown") | None => return Ok(()),
            Some(state) if Instant::now() >= deadline => {
                return Err(format!("{interface} is {state} after {LINK_LIMIT:?}"));
            }
            Some(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// The client's way to its server; inside a tunnel nothing of it would be seen, so it goes outside.
///
/// # Errors
/// In words.
pub(super) async fn walk(node: NodeId, client: &Client, topology: &Topology) -> Result<Path, String> {
    let pair = u8::try_from(node.pair).map_err(|_| "no such pair".to_owned())?;
    let limit = u8::try_from(topology.hops.len() + 1 + EXCESS_HOPS).unwrap_or(u8::MAX);
    let walked = client.walk(IpAddr::V4(topology.server(pair)), limit).await;
    let (passed, reached) = walked.map_err(|error| error.to_string())?;
    let name = |address: Option<IpAddr>| match address? {
        IpAddr::V4(address) => topology.router_at(pair, address).map(str::to_owned),
        IpAddr::V6(_) => None,
    };
    Ok(Path {
        pair: node.pair,
        expected: topology.hops.clone(),
        observed: passed.into_iter().map(name).collect(),
        reached,
    })
}

/// What the guest says of itself, and how its clock stands to this host's.
pub(super) async fn facts(node: NodeId, client: &Client) -> Vec<Environment> {
    let hello = client.hello();
    let fact = |name: &str, value: String| Environment { host: node.to_string(), name: name.to_owned(), value };
    let mut facts = vec![fact("vptest", hello.version.clone())];
    facts.extend(hello.kernel.iter().map(|kernel| fact("kernel", kernel.clone())));
    facts.extend(hello.memory.iter().map(|memory| fact("memory", memory.to_string())));
    match client.clock(CLOCK_ROUNDS).await {
        Ok(clock) => {
            let text = format!("{} to {} ns ahead of the host", clock.at_least_ns, clock.at_most_ns);
            facts.push(fact("clock.offset", text));
        }
        Err(error) => tracing::warn!("{node}: cannot read its clock: {error}"),
    }
    facts
}
