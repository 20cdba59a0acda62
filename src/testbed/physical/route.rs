//! Do the packets of a pair use the interfaces whose settings are changed and read?

use std::net::IpAddr;

use super::member::Member;
use crate::agent::{AgentError, Way};
use crate::record::Setting;
use crate::testbed::TestbedError;

/// Name of the setting.
const NAME: &str = "route_interface";

/// For client and server: the interface that packets to the other leave through. Asked is the one of the experiment, so that
/// another one makes the iteration invalid; one that cannot be told makes it suspect.
pub(super) async fn routes(client: &Member, server: &Member) -> [Setting; 2] {
    let there = client.client().route(server.address, None).await;
    // The server answers to the address that the client's kernel chooses, which may be another one of its.
    let seen = there.as_ref().ok().and_then(|way| way.source).unwrap_or(client.address);
    let back = server.client().route(seen, Some(server.address)).await;
    [setting(client, server.address, &there), setting(server, seen, &back)]
}

fn setting(of: &Member, to: IpAddr, way: &Result<Way, AgentError>) -> Setting {
    let observed = match way {
        Ok(way) => Some(way.interface.clone()),
        Err(error) => {
            tracing::warn!("{}: cannot find the route to {to}: {error}", of.wish.id);
            None
        }
    };
    Setting::compare(Some(of.wish.id), NAME, Some(of.interface.clone()), observed)
}

impl Member {
    /// Refuses a server whose address this client has itself: packets to it would never leave.
    pub(super) async fn is_no_end_of(&self, server: &Self) -> Result<(), TestbedError> {
        let way = match self.client().route(server.address, None).await {
            Ok(way) => way,
            // Without a route it cannot be its own. The setting says so.
            Err(error) if error.failure().is_some() => return Ok(()),
            Err(error) => return Err(self.failed(&error)),
        };
        if !way.is_local {
            return Ok(());
        }
        let what = format!(
            "{}: the address {} of {} is one of its own: packets to it would not leave the host",
            self.wish.host, server.address, server.wish.id
        );
        Err(TestbedError::Guest { node: self.wish.id, what })
    }
}
