//! The host's side of minimega's machines: their taps, in the network that minimega runs in. Open vSwitch passes packets
//! from tap to tap, so that what counts on the way is set at the taps; the bridge's own interface carries none of them.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use super::daemon::Daemon;
use super::machine::Machine;
use crate::host::link;
use crate::host::namespace::Namespace;
use crate::ids::NodeId;
use crate::node::local::blocking;
use crate::record::Setting;
use crate::testbed::TestbedError;
use crate::testbed::lan::build::{Stack, finish};
use crate::testbed::lan::settings::read_taps;
use crate::testbed::lan::topology::{Bridge, HostPort, NodePlan, Topology};

/// Name of Open vSwitch's process.
const SWITCH: &str = "ovs-vswitchd";

/// See the module.
pub(super) struct Switch {
    stack: Arc<Stack>,
    /// The guests, each with its tap.
    plans: Vec<NodePlan>,
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> TestbedError {
    let what = what.to_owned();
    move |source| TestbedError::Io { what, source }
}

impl Switch {
    /// Finds the taps of these guests.
    ///
    /// # Errors
    /// When minimega's network cannot be entered, or a tap is not there.
    pub(super) async fn open(daemon: &Daemon, guests: Vec<(&NodePlan, &Machine)>) -> Result<Self, TestbedError> {
        let pid =
            daemon.peer().pid.ok_or_else(|| io("find minimega's network")(std::io::ErrorKind::NotFound.into()))?;
        let open = move || Stack::of(Arc::new(Namespace::of_process(pid)?));
        let stack = Arc::new(blocking(open).await.map_err(io("enter minimega's network"))?);
        let listed = link::read_interfaces(&mut stack.netlink())?;
        let plan = |(plan, machine): (&NodePlan, &Machine)| {
            let missing = |tap: &str| {
                let source = std::io::Error::other(format!("minimega's network has no interface {tap}"));
                TestbedError::Io { what: format!("find the tap of {}", plan.id), source }
            };
            let tap = machine.taps.first().ok_or_else(|| missing("of its"))?;
            let found = listed.iter().find(|interface| interface.name == *tap).ok_or_else(|| missing(tap))?;
            let mut plan = plan.clone();
            if let Some(port) = plan.ports.first_mut() {
                let bridge = Bridge { name: machine.bridge.clone(), index: 0 };
                port.host = Some(HostPort { name: tap.clone(), index: found.index, bridge, shaped: true });
            }
            Ok(plan)
        };
        let plans = guests.into_iter().map(plan).collect::<Result<Vec<_>, TestbedError>>()?;
        Ok(Self { stack, plans })
    }

    /// The process of the switch, in the network of the taps; `None` where it is out of sight.
    pub(super) fn process(&self) -> Option<u32> {
        let inode = self.stack.namespace.inode().ok()?;
        let network = |pid: u32| Some(std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino());
        let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        // Anybody can take a name.
        let is_root = |pid: u32| std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == 0);
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_it = |pid: u32| name(pid).is_some_and(|name| name.trim() == SWITCH);
        numbers.find(|&pid| is_it(pid) && is_root(pid) && network(pid) == Some(inode))
    }

    /// Where the taps are.
    pub(super) fn namespace(&self) -> &Arc<Namespace> {
        &self.stack.namespace
    }

    /// Names of the guests' taps.
    pub(super) fn taps(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.plans.iter().filter_map(|plan| Some((plan.id, plan.ports.first()?.host.as_ref()?.name.as_str())))
    }

    /// MTU and offloads of the taps.
    ///
    /// # Errors
    /// For the first that cannot be set.
    pub(super) async fn set_up(&self, topology: &Topology) -> Result<(), TestbedError> {
        let (stack, plans, topology) = (Arc::clone(&self.stack), self.plans.clone(), topology.clone());
        let work = move || {
            let mut ports = plans.iter().filter_map(|plan| plan.ports.first()?.host.as_ref());
            Ok(ports.try_for_each(|port| set_tap(&stack, port, &topology)))
        };
        blocking(work).await.map_err(io("set up the taps"))?
    }

    /// Reads back what is in force at the taps.
    ///
    /// # Errors
    /// When the network cannot be read.
    pub(super) async fn settings(&self, topology: &Topology) -> Result<Vec<Setting>, TestbedError> {
        let (stack, plans, topology) = (Arc::clone(&self.stack), self.plans.clone(), topology.clone());
        let read = move || Ok(read_taps(&stack, &plans, &topology));
        blocking(read).await.map_err(io("read the settings back"))?
    }
}

fn set_tap(stack: &Stack, port: &HostPort, topology: &Topology) -> Result<(), TestbedError> {
    if let Some(mtu) = topology.mtu {
        stack.netlink().apply(&[link::mtu(&port.name, port.index, mtu)])?;
    }
    finish(topology, stack, &port.name)
}
