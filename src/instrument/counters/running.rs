//! The counters of one iteration: those of this kernel and its namespaces, and those behind agents.

use std::time::Duration;

use super::lists::{Owner, SWITCH, may_lack};
use super::place::PlacePlan;
use super::sampler::{Sampler, SamplerPlan};
use super::stack::{Claim, Side, StackPlan};
use super::{Counted, PlaceCounted, sound};
use crate::agent::{Client, CounterRequest, RemoteCounters};
use crate::ids::NodeId;
use crate::node::local::blocking;
use crate::record::{Metric, Problem, Weight};
use crate::spec::CounterSpec;
use crate::testbed::CountedAt;

/// Counters that are being read.
pub struct Counting {
    here: Option<Sampler>,
    remote: Vec<(NodeId, RemoteCounters)>,
    /// Metrics that the spec asks for besides the lists.
    asked: Vec<String>,
    problems: Vec<Problem>,
}

impl Counting {
    /// Reads all of them for the first time. Where that fails, [`Counting::finish`] says so.
    pub async fn start(places: Vec<CountedAt>, spec: &CounterSpec) -> Self {
        let mut counting = Self { here: None, remote: Vec::new(), asked: spec.metrics.clone(), problems: Vec::new() };
        let plan = here(&places, spec);
        match blocking(move || Sampler::start(plan)).await {
            Ok(sampler) => counting.here = Some(sampler),
            Err(error) => counting.never_ran(format!("on this host: {error}")),
        }
        for place in places {
            let (own_kernel, node, client, interface) = match place {
                CountedAt::Agent { node, client, interface } => (true, node, client, interface),
                CountedAt::AgentOfStack { node, client, interface } => (false, node, client, interface),
                CountedAt::Here { .. } | CountedAt::Switch { .. } => continue,
            };
            counting.start_remote(node, &client, (interface, own_kernel), spec).await;
        }
        counting
    }

    async fn start_remote(
        &mut self,
        node: NodeId,
        client: &Client,
        (interface, own_kernel): (String, bool),
        spec: &CounterSpec,
    ) {
        let request = CounterRequest {
            node,
            interface,
            interval_ms: spec.interval.map(|interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)),
            metrics: spec.metrics.clone(),
            own_kernel,
        };
        match client.count(&request).await {
            Ok(counters) => self.remote.push((node, counters)),
            Err(error) => self.never_ran(format!("on {node}: {:#}", anyhow::Error::from(error))),
        }
    }

    fn never_ran(&mut self, place: String) {
        let text = format!("counters were never read {place}");
        self.problems.push(Problem { weight: Weight::Invalid, text });
    }

    /// Asks for the last reading everywhere, and waits for nothing.
    pub fn stop_soon(&self) {
        if let Some(sampler) = &self.here {
            sampler.stop_soon();
        }
        self.remote.iter().for_each(|(_, counters)| counters.stop_soon());
    }

    /// Waits for the last readings.
    pub async fn finish(self) -> Counted {
        let mut counted = Counted { places: Vec::new(), problems: self.problems };
        let lost = |text: String| Problem { weight: Weight::Invalid, text: format!("counters are lost: {text}") };
        if let Some(sampler) = self.here {
            match blocking(move || sampler.finish()).await {
                Ok(more) => counted.add(more),
                Err(error) => counted.problems.push(lost(error.to_string())),
            }
        }
        for (node, counters) in self.remote {
            match counters.finish().await {
                Ok(more) => match sound::check(&more, node, &self.asked) {
                    Ok(()) => counted.add(more),
                    Err(why) => counted.problems.push(lost(format!("{node} sent {why}"))),
                },
                Err(error) => counted.problems.push(lost(format!("{node}: {:#}", anyhow::Error::from(error)))),
            }
        }
        counted
    }
}

/// What is read on this kernel: the host's own counters, the namespaces of nodes, and the host's ends of links.
fn here(places: &[CountedAt], spec: &CounterSpec) -> SamplerPlan {
    let host = PlacePlan { node: None, owners: vec![Owner::Kernel] };
    let mut plan = SamplerPlan {
        places: vec![host],
        kernel: Some(0),
        stacks: vec![StackPlan {
            namespace: None,
            place: 0,
            prefix: "if.",
            claims: Vec::new(),
            sockets: false,
            protocols: true,
        }],
        interval: spec.interval,
        extra: spec.metrics.clone(),
    };
    for place in places {
        if let CountedAt::Here { node, namespace, interface } = place {
            let number = plan.places.len();
            let mut owners = vec![Owner::Protocols];
            // A router has several interfaces, none of them the workload's, and no sockets of it.
            if interface.is_some() {
                owners.extend([Owner::Link, Owner::Sockets]);
            }
            plan.places.push(PlacePlan { node: Some(*node), owners });
            let claims = interface.iter().map(|interface| Claim {
                interface: interface.clone(),
                place: number,
                side: Side::Node,
            });
            plan.stacks.push(StackPlan {
                namespace: Some(namespace.clone()),
                place: number,
                prefix: "if.",
                claims: claims.collect(),
                sockets: interface.is_some(),
                protocols: true,
            });
        }
    }
    for place in places {
        let CountedAt::Switch { namespace, ends } = place else { continue };
        let claims = ends.iter().map(|(node, interface)| Claim {
            interface: interface.clone(),
            place: plan.place_of(*node),
            side: Side::Host,
        });
        let claims = claims.collect();
        plan.stacks.push(StackPlan {
            namespace: Some(namespace.clone()),
            place: 0,
            prefix: SWITCH,
            claims,
            sockets: false,
            protocols: false,
        });
    }
    plan
}

impl SamplerPlan {
    /// The place of a node, which has the host's end of its link from now on. A guest has none here before.
    fn place_of(&mut self, node: NodeId) -> usize {
        let at = self.places.iter().position(|place| place.node == Some(node)).unwrap_or_else(|| {
            self.places.push(PlacePlan { node: Some(node), owners: Vec::new() });
            self.places.len() - 1
        });
        self.places[at].owners.push(Owner::HostEnd);
        at
    }

    /// What an agent reads on its node.
    pub(super) fn of_node(
        node: NodeId,
        interface: String,
        interval: Option<Duration>,
        extra: Vec<String>,
        own_kernel: bool,
    ) -> Self {
        let owners = sound::OF_NODE.into_iter().filter(|owner| own_kernel || *owner != Owner::Kernel).collect();
        let claim = Claim { interface, place: 0, side: Side::Node };
        let stack =
            StackPlan { namespace: None, place: 0, prefix: "if.", claims: vec![claim], sockets: true, protocols: true };
        let places = vec![PlacePlan { node: Some(node), owners }];
        Self { places, kernel: own_kernel.then_some(0), stacks: vec![stack], interval, extra }
    }
}

/// The numbers of the fixed list as metrics.
pub fn metrics(counted: &Counted) -> Vec<Metric> {
    let of_place = |PlaceCounted { place, totals }: &PlaceCounted| {
        let node = place.node;
        let metric = move |total: &crate::record::CounterTotal| Metric {
            pair: node.map(|node| node.pair),
            node,
            level: total.level,
            name: total.name.clone(),
            unit: total.unit.clone(),
            value: total.value,
            better: None,
        };
        totals.iter().map(metric).collect::<Vec<_>>()
    };
    counted.places.iter().flat_map(of_place).collect()
}

/// One line for each place: how it was read, and what is not there.
pub fn notes(counted: &Counted) -> Vec<String> {
    counted.places.iter().map(|counted| note(&counted.place)).collect()
}

fn note(place: &crate::record::CounterPlace) -> String {
    let name = place.node.map_or_else(|| "the host".to_owned(), |node| node.to_string());
    let how = match place.interval_ms {
        Some(interval) => format!("every {interval} ms, at most {:.1} ms late", millis(place.latest_us)),
        None => "before and after".to_owned(),
    };
    let missing: Vec<String> = place
        .sources
        .iter()
        .filter(|source| may_lack(&source.name))
        .filter_map(|source| Some(format!("{} ({})", source.name, source.why.as_ref()?)))
        .collect();
    let missing = if missing.is_empty() { String::new() } else { format!("; not there: {}", missing.join(", ")) };
    format!("counters of {name}: {} readings, {how}{missing}", place.times_us.len())
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn millis(us: u64) -> f64 {
    us as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instrument::host;
    use crate::record::{HOST_METRICS, HostUse};

    #[test]
    fn names_of_the_hosts_metrics_are_those_that_a_spec_may_not_ask_for() {
        let used = HostUse { wall: Duration::from_secs(1), ..HostUse::unread() };
        let names: Vec<String> = host::metrics(None, &used).into_iter().map(|metric| metric.name).collect();
        assert_eq!(names, HOST_METRICS);
    }
}
