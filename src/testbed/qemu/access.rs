//! How the agent in a guest is reached: through a virtio-serial port, or by ssh into a disk of the user's.

use std::sync::Arc;

use tokio::time::Instant;

use super::args::{Files, GuestPlan, Login};
use super::guest::{Site, connect};
use crate::agent::{Client, Limits};
use crate::host::link;
use crate::host::namespace::Namespace;
use crate::host::netlink::Netlink;
use crate::node::Process;
use crate::node::ssh::{self, Connection, HostKeys, SshError, Target};
use crate::testbed::TestbedError;

/// A conversation with an agent, and what it needs to go on.
pub(super) struct Reached {
    pub(super) client: Client,
    pub(super) login: Option<LoggedIn>,
}

/// ssh's processes. Dropping this ends them, and the guest's agent with them.
pub(super) struct LoggedIn {
    _agent: Box<dyn Process>,
    _connection: Connection,
}

/// Waits until the agent answers, or starts it.
///
/// # Errors
/// The reason in words.
pub(super) async fn reach(site: &Site<'_>, files: &Files, plan: &GuestPlan) -> Result<Reached, String> {
    match site.boot.login() {
        Some(login) => by_ssh(site, login, plan).await,
        None => by_port(site, files).await,
    }
}

async fn by_port(site: &Site<'_>, files: &Files) -> Result<Reached, String> {
    let agent = connect(site.directory, &files.agent, site.deadline)
        .await
        .map_err(|error| format!("QEMU opens no socket for the agent: {error}"))?;
    let (read, write) = agent.into_split();
    let client = Client::connect(read, write, limits(site)).await.map_err(|error| error.to_string())?;
    Ok(Reached { client, login: None })
}

/// The server is at the other end of a port of QEMU's in a namespace of vptest's own: nobody else can be there.
async fn by_ssh(site: &Site<'_>, login: &Login, plan: &GuestPlan) -> Result<Reached, String> {
    let management = plan.management.as_ref().ok_or("it has no network card for ssh")?;
    let target = Target {
        host: "127.0.0.1".to_owned(),
        port: Some(management.port),
        user: Some(login.user.clone()),
        identity: login.identity.clone(),
        host_keys: login.host_key.clone().map_or(HostKeys::First, HostKeys::This),
        config: false,
    };
    let place = ssh::Site {
        processes: site.processes,
        namespace: site.namespace.cloned(),
        directory: site.directory,
        name: &plan.name,
    };
    let mut connection = Connection::open(&place, &target, site.deadline).await.map_err(|error| told(&error))?;
    let started = tokio::time::timeout_at(site.deadline, connection.agent(&login.program, limits(site))).await;
    let agent = started.map_err(|_| "vptest could not be copied to it in time")?.map_err(|error| told(&error))?;
    let login = LoggedIn { _agent: agent.process, _connection: connection };
    Ok(Reached { client: agent.client, login: Some(login) })
}

fn limits(site: &Site<'_>) -> Limits {
    let left = site.deadline.saturating_duration_since(Instant::now());
    Limits { handshake: left, ..Limits::default() }
}

/// With what to do about it.
fn told(error: &SshError) -> String {
    let text = match error {
        SshError::Io { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    error.hint().map_or_else(|| text.clone(), |hint| format!("{text} ({hint})"))
}

/// A network for a guest that is tried without the others: QEMU opens its port for ssh in there.
pub(super) fn private_network() -> Result<Arc<Namespace>, TestbedError> {
    let failed = |source| TestbedError::Io { what: "make a network for a guest".to_owned(), source };
    let namespace = Namespace::new().map_err(failed)?;
    let mut netlink = namespace.run(Netlink::open).map_err(failed)?;
    netlink.apply(&[link::up("lo", link::LOOPBACK)])?;
    Ok(Arc::new(namespace))
}
