//! One node of an iteration: what it is, what its settings are, and giving them back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::borrow::said;
use super::nodes::Held;
use super::wishes::{NodeWish, Wishes};
use crate::agent::{AgentError, Client, Reading};
use crate::host::ethtool::Offload;
use crate::record::{Environment, Setting};
use crate::testbed::TestbedError;

/// How long a node may take to end what runs on it, and to put settings back: a card may take seconds for each.
const RESET: Duration = Duration::from_secs(10);
const GIVE_BACK: Duration = Duration::from_secs(30);
/// A card may take seconds to come back after its offloads or its MTU were changed.
const LINK_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Questions that compare a node's clock with this host's.
const CLOCK_ROUNDS: u32 = 16;
/// More than a kernel parameter or a governor has.
const VALUE: u64 = 4096;
/// Readings stored under another name, since the factor of that name is something else.
const RENAMED: [(&str, &str); 2] = [("driver", "link_driver"), ("egress_rate", "rate")];

/// Readings that say what the link is, and their names among the facts.
const LINK_FACTS: [(&str, &str); 6] = [
    ("speed", "link.speed"),
    ("link_driver", "link.driver"),
    ("firmware", "link.firmware"),
    ("queues", "link.queues"),
    ("ring_rx", "link.ring_rx"),
    ("ring_tx", "link.ring_tx"),
];

/// A node in its part.
pub(super) struct Member {
    pub(super) wish: NodeWish,
    pub(super) held: Arc<Held>,
    pub(super) interface: String,
    pub(super) address: IpAddr,
    /// What it said when it lent its settings.
    pub(super) notes: Vec<String>,
    /// Round trips through miniccc before the iteration; `None` for a node that is reached otherwise.
    pub(super) trips: Option<u64>,
}

/// How putting back went.
pub(super) enum GivenBack {
    /// What was left, one line each.
    Left(Vec<String>),
    /// The agent is gone, or too far gone to say: why.
    Lost(String),
}

impl Member {
    pub(super) fn client(&self) -> &Client {
        &self.held.client
    }

    pub(super) fn failed(&self, error: &AgentError) -> TestbedError {
        TestbedError::Guest { node: self.wish.id, what: said(&self.wish, error) }
    }

    /// Round trips through miniccc from the loan to now, as a fact.
    pub(super) fn trips_since(&self, name: &str) -> Option<Environment> {
        let value = self.held.round_trips()?.checked_sub(self.trips?)?.to_string();
        Some(Environment { host: self.wish.id.to_string(), name: name.to_owned(), value })
    }

    /// Waits until the interface is up; one that does not say counts as up.
    pub(super) async fn await_link(&self) -> Result<(), TestbedError> {
        let deadline = Instant::now() + LINK_LIMIT;
        loop {
            let readings = self.client().settings(&self.interface).await.map_err(|error| self.failed(&error))?;
            match value(&readings, "operstate").as_deref() {
                Some("up" | "unknown") | None => return Ok(()),
                Some(state) if Instant::now() >= deadline => {
                    let what = format!("{}: {} is {state} after {LINK_LIMIT:?}", self.wish.host, self.interface);
                    return Err(TestbedError::Guest { node: self.wish.id, what });
                }
                Some(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    pub(super) async fn facts(&self) -> Vec<Environment> {
        let hello = self.client().hello();
        let fact =
            |name: &str, value: String| Environment { host: self.wish.id.to_string(), name: name.to_owned(), value };
        let mut facts = vec![
            fact("testbed.physical.host", self.wish.host.clone()),
            fact("testbed.physical.way", self.wish.reach.way().as_str().to_owned()),
            fact("testbed.physical.interface", self.interface.clone()),
            fact("testbed.physical.address", self.address.to_string()),
            fact("vptest", hello.version.clone()),
        ];
        facts.extend(hello.cpus.iter().map(|cpus| fact("cpus", cpus.to_string())));
        facts.extend(hello.boot_id.iter().map(|boot| fact("boot_id", boot.clone())));
        facts.extend(self.notes.iter().map(|note| fact("testbed.physical.note", note.clone())));
        let client = self.client();
        let (known, link) = both(client.is_slow(), client.facts(), client.settings(&self.interface)).await;
        // Alone: what else the node has to do would make its answer late.
        let clock = client.clock(CLOCK_ROUNDS).await;
        match known {
            Ok(known) => facts.extend(known.into_iter().filter_map(|known| Some(fact(&known.name, known.value?)))),
            Err(error) => tracing::warn!("{}: cannot read what it is: {error}", self.wish.id),
        }
        match link {
            Ok(readings) => {
                let of_link = LINK_FACTS.iter().filter_map(|(from, to)| Some(fact(to, value(&readings, from)?)));
                facts.extend(of_link);
            }
            Err(error) => tracing::warn!("{}: cannot read what its link is: {error}", self.wish.id),
        }
        match clock {
            Ok(clock) => {
                let text = format!("{} to {} ns ahead of the host", clock.at_least_ns, clock.at_most_ns);
                facts.push(fact("clock.offset", text));
            }
            Err(error) => tracing::warn!("{}: cannot read its clock: {error}", self.wish.id),
        }
        facts
    }

    pub(super) async fn settings(&self, wishes: &Wishes) -> Vec<Setting> {
        let node = Some(self.wish.id);
        let asked = self.client().settings(&self.interface);
        let (readings, of_kernel) = both(self.client().is_slow(), asked, self.kernel_settings(wishes)).await;
        let readings = match readings {
            Ok(readings) => readings,
            Err(error) => {
                tracing::warn!("{}: cannot read the settings of {}: {error}", self.wish.id, self.interface);
                Vec::new()
            }
        };
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        let mut wanted: Vec<(&str, Option<String>)> =
            Offload::ALL.map(|offload| (offload.as_str(), wishes.offload.map(switch))).to_vec();
        wanted.push(("mtu", wishes.mtu.map(|mtu| mtu.to_string())));
        wanted.push(("egress_rate", wishes.rate_text.clone()));
        let named = |name: &str| {
            RENAMED.iter().find(|(from, _)| *from == name).map_or(name.to_owned(), |(_, to)| (*to).to_owned())
        };
        let mut settings: Vec<Setting> = wanted
            .iter()
            .map(|(name, wanted)| Setting::compare(node, &named(name), wanted.clone(), value(&readings, name)))
            .collect();
        let others = readings.iter().filter(|reading| !wanted.iter().any(|(name, _)| *name == reading.name));
        settings
            .extend(others.map(|reading| Setting::compare(node, &named(&reading.name), None, reading.value.clone())));
        settings.extend(of_kernel);
        settings
    }

    /// Kernel parameters that were asked for, and the governors of all CPUs.
    async fn kernel_settings(&self, wishes: &Wishes) -> Vec<Setting> {
        let governor = |cpu: u32| format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        let governors = self.cpus().await.iter().copied().map(governor);
        let paths = wishes.sysctls.iter().map(|(name, _)| format!("/proc/sys/{name}")).chain(governors);
        let paths: Vec<String> = paths.collect();
        let read = match self.client().read_files(&paths, VALUE).await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!("{}: cannot read its kernel parameters: {error}", self.wish.id);
                vec![None; paths.len()]
            }
        };
        let text = |bytes: &Option<Vec<u8>>| {
            let text = String::from_utf8_lossy(bytes.as_deref()?).split_whitespace().collect::<Vec<_>>().join(" ");
            Some(crate::text::printable(&text, 200))
        };
        let (parameters, governors) = read.split_at(wishes.sysctls.len().min(read.len()));
        let node = Some(self.wish.id);
        let mut settings: Vec<Setting> = wishes
            .sysctls
            .iter()
            .zip(parameters)
            .map(|((name, wanted), found)| {
                let wanted = wanted.split_whitespace().collect::<Vec<_>>().join(" ");
                Setting::compare(node, &format!("sysctl.{}", name.replace('/', ".")), Some(wanted), text(found))
            })
            .collect();
        let found: BTreeSet<String> = governors.iter().filter_map(text).collect();
        if !found.is_empty() || wishes.governor.is_some() {
            let found = (!found.is_empty()).then(|| found.into_iter().collect::<Vec<_>>().join(", "));
            settings.push(Setting::compare(node, "governor", wishes.governor.clone(), found));
        }
        settings
    }

    /// All CPUs of the node, not only those that the agent may use; none when they cannot be read. They are asked for once.
    async fn cpus(&self) -> &[u32] {
        let read = async {
            let path = "/sys/devices/system/cpu/present".to_owned();
            let read = self.client().read_files(&[path], VALUE).await.map_err(drop)?.pop().flatten().ok_or(())?;
            crate::host::cpus::parse_list(&String::from_utf8_lossy(&read)).ok_or(())
        };
        self.held.cpus.get_or_try_init(|| read).await.map_or(&[], Vec::as_slice)
    }

    /// Ends what runs there and puts settings back.
    pub(super) async fn give_back(&self) -> GivenBack {
        let host = &self.wish.host;
        let reset = match tokio::time::timeout(RESET, self.client().reset()).await {
            Ok(reset) => reset.err().map(|error| format!("{host}: {error}")),
            Err(_) => Some(format!("{host}: what runs there has not ended within {RESET:?}")),
        };
        match tokio::time::timeout(GIVE_BACK, self.client().give_back()).await {
            Ok(Ok(left)) => {
                let left = left.into_iter().map(|left| format!("{host}: not put back: {left}"));
                GivenBack::Left(reset.into_iter().chain(left).collect())
            }
            Ok(Err(error)) => GivenBack::Lost(error.to_string()),
            Err(_) => GivenBack::Lost(format!("it has not put back its settings within {GIVE_BACK:?}")),
        }
    }
}

/// Both: at once where each question is a round trip of a letter, so that they share one, and otherwise one after the other.
pub(super) async fn both<A, B>(at_once: bool, a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    if at_once {
        return tokio::join!(a, b);
    }
    let a = a.await;
    (a, b.await)
}

fn value(readings: &[Reading], name: &str) -> Option<String> {
    readings.iter().find(|reading| reading.name == name)?.value.clone()
}
