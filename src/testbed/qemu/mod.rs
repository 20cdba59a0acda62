//! The testbed `qemu`: every client and server is a virtual machine of this host, on taps and bridges in a namespace of
//! its own (`super::lan`); routers are namespaces.
//!
//! The guests run vptest's own image (`crate::image`) or a disk of the user's. vptest talks to them through a
//! virtio-serial port (`crate::agent`), never through the network under test. QEMU and everything else lives in the
//! iteration's PID namespace: when vptest ends, however it ends, nothing stays behind.

mod accel;
mod access;
pub(in crate::testbed) mod args;
mod console;
mod guest;
mod offers;
mod pool;
pub(in crate::testbed) mod prepare;
mod qmp;
pub(in crate::testbed) mod settings;
pub(in crate::testbed) mod up;
pub(in crate::testbed) mod wishes;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures_util::FutureExt as _;

use self::accel::Verdict;
use self::prepare::Prepared;
use self::up::Up;
use self::wishes::Wishes;
use super::{Beside, Instance, Request, Testbed, TestbedError};
use crate::image::Image;
use crate::spec::{Reuse, TestbedSpec, Tuple};

pub(crate) use self::console::kept as kept_console;
pub(crate) use self::offers::Offers;

/// Does KVM work here? Remembered, or found out with this image, whose kernel must be the distribution's; `None` without
/// either.
pub(crate) async fn kvm_verdict(
    offers: &Offers,
    image: Option<&Image>,
    cache: &Path,
    scratch: &Path,
) -> Option<Verdict> {
    match (accel::remembered(cache, &offers.version), image) {
        (Some(known), _) => Some(known),
        (None, Some(image)) => {
            let boot = prepare::kernel_boot(image, &[]).ok()?;
            let trial = accel::Trial { boot: &boot, own: true, limit: accel::LIMIT };
            Some(accel::verdict(trial, &offers.version, cache, scratch).await.0)
        }
        (None, None) => None,
    }
}

/// Name of this testbed in specs.
const NAME: &str = "qemu";
/// The program.
const PROGRAM: &str = "qemu-system-x86_64";

/// See the module.
pub struct Qemu {
    prepared: Prepared,
    pool: pool::Pool,
}

impl Qemu {
    /// A testbed with these options. Guests that are kept for further iterations end with it.
    pub fn new(spec: &TestbedSpec) -> Self {
        let pool = pool::Pool::new(spec.reuse == Reuse::Tuple);
        Self { prepared: Prepared::new(spec.qemu.clone(), None), pool }
    }

    /// As [`Qemu::new`], with the images in this directory instead of the usual one.
    pub fn with_cache(spec: &TestbedSpec, cache: PathBuf) -> Self {
        let pool = pool::Pool::new(spec.reuse == Reuse::Tuple);
        Self { prepared: Prepared::new(spec.qemu.clone(), Some(cache)), pool }
    }
}

#[async_trait]
impl Testbed for Qemu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn beside(&self) -> Beside {
        Beside::Guests
    }

    fn memory(&self, tuple: &Tuple) -> u64 {
        Wishes::of(NAME, tuple).map_or(0, |wishes| wishes.memory_of(wishes.guests()))
    }

    /// What runs in a disk of the user's is not known here.
    fn provides(&self, program: &str) -> bool {
        self.prepared.has_disk() && program != "stress-ng"
    }

    async fn base_id(&self, request: &Request) -> Result<Option<String>, TestbedError> {
        self.prepared.base_id(request).await
    }

    fn accepts(&self, tuple: &Tuple) -> Result<(), TestbedError> {
        Wishes::of(NAME, tuple).map(drop)
    }

    async fn preflight(&self, request: &Request) -> Result<(), TestbedError> {
        let wishes = Wishes::of(NAME, &request.tuple)?;
        self.prepared.check(&wishes, request).await?;
        self.pool.make_room(&wishes, &request.tuple).await
    }

    async fn launch(&self, request: &Request) -> Result<Box<dyn Instance>, TestbedError> {
        let wishes = Wishes::of(NAME, &request.tuple)?;
        let resolved = self.prepared.resolve(wishes, request).await?;
        let kept = self.pool.take(&request.tuple).await;
        // Boxed: it holds the state of all the guests that are being started.
        Ok(Box::new(Up::launch(resolved, kept, &self.pool, request).boxed().await?))
    }

    async fn close(&self) {
        self.pool.clear().await;
    }
}
