//! The testbed `minimega-kvm`: every client and server is a virtual machine of a minimega that runs on this host, or of another
//! one in its mesh (`colocated = off`).
//!
//! Each pair has a namespace of its own. The guests run vptest's own image or one of the user's. vptest talks to them through
//! a virtio-serial port, as in the testbed `qemu`, or by letters through a miniccc in them where the user's image has nothing
//! else. The network under test carries no command.

use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::FutureExt as _;

use super::prepare::Prepared;
use super::up::Up;
use crate::spec::{GuestReach, MinimegaSpec, StressPlace, TestbedSpec, Tuple};
use crate::testbed::lan::topology::LinkRate;
use crate::testbed::qemu::wishes::Wishes;
use crate::testbed::{Beside, Instance, Request, Testbed, TestbedError};

/// Name of this testbed in specs.
pub(super) const NAME: &str = "minimega-kvm";

/// See the module.
pub struct MinimegaKvm {
    prepared: Prepared,
}

impl MinimegaKvm {
    /// A testbed with these options.
    pub fn new(spec: &TestbedSpec) -> Self {
        Self { prepared: Prepared::new(spec.minimega.clone(), None) }
    }

    /// As [`MinimegaKvm::new`], with the images in this directory instead of the usual one.
    pub fn with_cache(spec: &TestbedSpec, cache: PathBuf) -> Self {
        Self { prepared: Prepared::new(spec.minimega.clone(), Some(cache)) }
    }
}

#[async_trait]
impl Testbed for MinimegaKvm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn beside(&self) -> Beside {
        Beside::No("minimega's switch works for all iterations at once, on any CPU")
    }

    async fn base_id(&self, request: &Request) -> Result<Option<String>, TestbedError> {
        self.prepared.base_id(request).await
    }

    fn accepts(&self, tuple: &Tuple) -> Result<(), TestbedError> {
        wishes(NAME, tuple)?;
        if !is_apart(tuple) {
            return Ok(());
        }
        check_reach(&self.prepared.spec)?;
        check_apart(NAME, &self.prepared.spec, tuple)
    }

    async fn preflight(&self, request: &Request) -> Result<(), TestbedError> {
        self.accepts(&request.tuple)?;
        self.prepared.check(&wishes(NAME, &request.tuple)?, request).await
    }

    async fn launch(&self, request: &Request) -> Result<Box<dyn Instance>, TestbedError> {
        let wishes = wishes(NAME, &request.tuple)?;
        self.prepared.may_capture(request).await?;
        // Boxed: it holds the state of all the guests that are being started.
        Ok(Box::new(Up::launch(&self.prepared, wishes, request).boxed().await?))
    }

    async fn close(&self) {
        self.prepared.close().await;
    }
}

/// What Ethernet carries when nobody says anything.
const USUAL_MTU: u32 = 1500;
/// Header, VLAN tag.
const FRAME_OVERHEAD: u64 = 18;

/// # Errors
/// [`TestbedError::Request`] for what minimega cannot provide.
pub(super) fn wishes(testbed: &'static str, tuple: &Tuple) -> Result<Wishes, TestbedError> {
    let wishes = Wishes::of(testbed, tuple)?;
    let refuse = |what: &str| Err(TestbedError::Request { testbed, what: what.to_owned() });
    if !wishes.topology.hops.is_empty() {
        return refuse("hops: there are no routers in minimega (leave `hops` out, or exclude this testbed)");
    }
    if let LinkRate::Limit(rate) = wishes.topology.rate {
        let frame = u64::from(wishes.topology.mtu.unwrap_or(USUAL_MTU)) + FRAME_OVERHEAD;
        // What its bucket holds; larger frames never pass, though the rate reads as asked for.
        if rate.bits_per_second().saturating_mul(128) / 100_000 < frame {
            let least = frame.div_ceil(128) * 100;
            return refuse(&format!(
                "rate = `{rate}`: minimega's limit drops every frame of {frame} bytes below {least} kbit/s"
            ));
        }
    }
    Ok(wishes)
}

/// Are client and server to be on different hosts?
pub(super) fn is_apart(tuple: &Tuple) -> bool {
    tuple.get("colocated").is_some_and(|value| value.to_string() == "off")
}

fn refused_apart(testbed: &'static str, what: &str) -> Result<(), TestbedError> {
    Err(TestbedError::Request { testbed, what: format!("colocated = off: {what}") })
}

/// # Errors
/// [`TestbedError::Request`] for guests that are only to be had on the minimega's own host.
fn check_reach(spec: &MinimegaSpec) -> Result<(), TestbedError> {
    let refuse = |what| refused_apart(NAME, what);
    let by_letters = spec.image.as_ref().is_some_and(|image| matches!(image.reach, GuestReach::Cc { .. }));
    if !by_letters {
        return refuse(
            "guests on another host are reached through their miniccc alone, for a virtio-serial port is a socket on that host: it \
             needs an image of your own, and `reach = \"cc\"` in `[testbed.minimega]`",
        );
    }
    if spec.result_disk.is_some() {
        return refuse("results disks are on this host alone (leave `result_disk` out)");
    }
    Ok(())
}

/// # Errors
/// [`TestbedError::Request`] for what is not to be had where client and server are on different hosts.
pub(super) fn check_apart(testbed: &'static str, spec: &MinimegaSpec, tuple: &Tuple) -> Result<(), TestbedError> {
    let refuse = |what: &str| refused_apart(testbed, what);
    if tuple.integer("mtu").is_none() {
        return refuse(
            "mtu: the tunnel between the hosts takes 46 bytes of each frame and drops what is larger than its network takes \
             without a word (say `mtu`: at most 1454 where that takes 1500)",
        );
    }
    if tuple.pinning() {
        return refuse("pinning: CPUs of another host cannot be told (leave `pinning` out)");
    }
    let loads = ["stress_cpu", "stress_io", "stress_mem"];
    let is_loaded = |name: &&str| tuple.integer(name).is_some_and(|workers| workers > 0);
    match loads.into_iter().find(is_loaded) {
        Some(load) if spec.stress == StressPlace::Host => {
            refuse(&format!("{load}: the load would be on one of the hosts alone (`stress = \"guest\"`)"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::container::MinimegaContainer;
    use super::*;
    use crate::spec::{GuestBoot, GuestImage, Value};

    fn refused(name: &str, value: Value) -> String {
        wishes(NAME, &Tuple::new([(name.to_owned(), value)].into())).unwrap_err().to_string()
    }

    #[test]
    fn a_rate_whose_bucket_holds_no_frame_is_refused() {
        let rate = |mtu: i64, bits: u64| {
            let rate = crate::units::Rate::from_bits_per_second(bits).unwrap();
            let factors = [("rate".to_owned(), Value::Rate(rate)), ("mtu".to_owned(), Value::Integer(mtu))];
            wishes(NAME, &Tuple::new(factors.into())).map(drop).map_err(|error| error.to_string())
        };
        rate(1500, 1_200_000).unwrap();
        rate(500, 600_000).unwrap();
        let why = rate(1500, 1_000_000).unwrap_err();
        assert!(why.ends_with("drops every frame of 1518 bytes below 1200 kbit/s"), "{why}");
        rate(9000, 5_000_000).unwrap_err();
    }

    #[test]
    fn what_minimega_cannot_provide_is_refused_by_name() {
        let hops = refused("hops", Value::List(vec!["A".to_owned()]));
        assert!(hops.starts_with("testbed minimega-kvm: hops: "), "{hops}");
    }

    #[test]
    fn what_only_one_host_can_provide_is_refused_by_name() {
        let boot = GuestBoot::Disk { path: "/d".to_owned(), snapshot: true };
        let image = |reach| Some(GuestImage { boot: boot.clone(), reach });
        let by_cc = MinimegaSpec { image: image(GuestReach::Cc { files: None }), ..MinimegaSpec::default() };
        let at_port = MinimegaSpec { image: image(GuestReach::Port), ..MinimegaSpec::default() };
        let asked = |spec: &MinimegaSpec, further: Option<(&str, Value)>| {
            let apart = [("colocated", Value::Switch(false)), ("mtu", Value::Integer(1400))];
            let apart = apart.map(|(name, value)| (name.to_owned(), value));
            let further = further.map(|(name, value)| (name.to_owned(), value));
            let minimega = spec.clone();
            let testbed = MinimegaKvm::new(&TestbedSpec { minimega, ..TestbedSpec::default() });
            testbed.accepts(&Tuple::new(apart.into_iter().chain(further).collect())).map_err(|error| error.to_string())
        };
        asked(&by_cc, None).unwrap();
        asked(&by_cc, Some(("stress_cpu", Value::Integer(0)))).unwrap();
        for spec in [&at_port, &MinimegaSpec::default()] {
            let why = asked(spec, None).unwrap_err();
            assert!(why.starts_with("testbed minimega-kvm: colocated = off: ") && why.contains("miniccc"), "{why}");
        }
        let why = asked(&by_cc, Some(("pinning", Value::Switch(true)))).unwrap_err();
        assert!(why.contains("pinning"), "{why}");
        let load = ("stress_cpu", Value::Integer(2));
        let why = asked(&by_cc, Some(load.clone())).unwrap_err();
        assert!(why.contains("stress_cpu"), "{why}");
        asked(&MinimegaSpec { stress: StressPlace::Guest, ..by_cc }, Some(load)).unwrap();
        let apart = Tuple::new([("colocated".to_owned(), Value::Switch(false))].into());
        let testbed = MinimegaKvm::new(&TestbedSpec { minimega: at_port.clone(), ..TestbedSpec::default() });
        testbed.accepts(&apart).unwrap_err();
        let contained = |filesystem: Option<&str>, further: Option<(&str, Value)>| {
            let factors =
                [("colocated", Value::Switch(false)), ("mtu", Value::Integer(1400))].into_iter().chain(further);
            let minimega = MinimegaSpec { filesystem: filesystem.map(str::to_owned), ..MinimegaSpec::default() };
            let testbed = MinimegaContainer::new(&TestbedSpec { minimega, ..TestbedSpec::default() });
            let factors = factors.map(|(name, value)| (name.to_owned(), value));
            testbed.accepts(&Tuple::new(factors.collect())).map_err(|error| error.to_string())
        };
        contained(Some("/fs"), None).unwrap();
        let why = contained(None, None).unwrap_err();
        assert!(
            why.starts_with("testbed minimega-container: colocated = off: ") && why.contains("`filesystem`"),
            "{why}"
        );
        let why = contained(Some("/fs"), Some(("pinning", Value::Switch(true)))).unwrap_err();
        assert!(why.starts_with("testbed minimega-container: colocated = off: pinning: "), "{why}");
    }
}
