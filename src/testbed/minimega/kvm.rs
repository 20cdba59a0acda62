//! The testbed `minimega-kvm`: every client and server is a virtual machine of a minimega that runs on this host.
//!
//! Each pair has a namespace of its own. The guests run vptest's own image; vptest talks to them through a virtio-serial
//! port, as in the testbed `qemu`, so that neither the network under test nor minimega's command and control, with its
//! heartbeat of 5 s, carries a command.

use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::FutureExt as _;

use super::prepare::Prepared;
use super::up::Up;
use crate::spec::{TestbedSpec, Tuple};
use crate::testbed::qemu::wishes::Wishes;
use crate::testbed::{Instance, Request, Testbed, TestbedError};

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

    async fn base_id(&self, request: &Request) -> Result<Option<String>, TestbedError> {
        Ok(Some(self.prepared.image(request).await?.base_id.clone()))
    }

    fn accepts(&self, tuple: &Tuple) -> Result<(), TestbedError> {
        wishes(tuple).map(drop)
    }

    async fn preflight(&self, request: &Request) -> Result<(), TestbedError> {
        self.prepared.check(&wishes(&request.tuple)?, request).await
    }

    async fn launch(&self, request: &Request) -> Result<Box<dyn Instance>, TestbedError> {
        let wishes = wishes(&request.tuple)?;
        // Boxed: it holds the state of all the guests that are being started.
        Ok(Box::new(Up::launch(&self.prepared, wishes, request).boxed().await?))
    }
}

/// # Errors
/// [`TestbedError::Request`] for what minimega cannot provide.
fn wishes(tuple: &Tuple) -> Result<Wishes, TestbedError> {
    let wishes = Wishes::of(NAME, tuple)?;
    let refuse = |what: &str| Err(TestbedError::Request { testbed: NAME, what: what.to_owned() });
    if !wishes.topology.hops.is_empty() {
        return refuse("hops: there are no routers in minimega (leave `hops` out, or exclude this testbed)");
    }
    if tuple.get("colocated").is_some_and(|value| value.to_string() == "off") {
        return refuse("colocated = off: guests on other hosts of a mesh cannot be reached (colocated = on)");
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Value;

    fn refused(name: &str, value: Value) -> String {
        wishes(&Tuple::new([(name.to_owned(), value)].into())).unwrap_err().to_string()
    }

    #[test]
    fn what_minimega_cannot_provide_is_refused_by_name() {
        let hops = refused("hops", Value::List(vec!["A".to_owned()]));
        assert!(hops.starts_with("testbed minimega-kvm: hops: "), "{hops}");
        let spread = refused("colocated", Value::Switch(false));
        assert!(spread.starts_with("testbed minimega-kvm: colocated = off: "), "{spread}");
        wishes(&Tuple::new([("colocated".to_owned(), Value::Switch(true))].into())).unwrap();
    }
}
