//! The testbed `minimega-container`: every client and server is a container of a minimega that runs on this host, or of another
//! one in its mesh (`colocated = off`).
//!
//! Each pair has a namespace of its own. The containers of this host share its kernel, so that what is seen in them – captures,
//! counters, system calls – is seen from here, by the same clock. Those of another host are as far away as virtual machines there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::sync::Mutex;

use super::afar;
use super::cgroup;
use super::contained::Up;
use super::daemon::Daemon;
use super::inside::{self, Filesystem};
use super::kvm::{check_apart, is_apart, wishes};
use super::mesh::Places;
use super::prepare::Prepared;
use crate::host::namespace::Namespace as Network;
use crate::host::netlink::Netlink;
use crate::host::setup;
use crate::image::{self, Bundle, KernelChoice, Root};
use crate::node::local::blocking;
use crate::spec::{TestbedSpec, Tuple};
use crate::testbed::qemu::prepare::{no_image, programs, told};
use crate::testbed::{Beside, Instance, Request, TUNNEL_INTERFACE, Testbed, TestbedError};

/// Name of this testbed in specs.
pub(super) const NAME: &str = "minimega-container";

/// See the module.
pub struct MinimegaContainer {
    prepared: Prepared,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By the programs in them.
    roots: BTreeMap<BTreeSet<String>, Arc<Root>>,
    /// vptest for containers of the user's own filesystem.
    bundle: Option<Arc<Bundle>>,
}

impl MinimegaContainer {
    /// A testbed with these options.
    pub fn new(spec: &TestbedSpec) -> Self {
        Self { prepared: Prepared::new(spec.minimega.clone(), None), known: Mutex::default() }
    }

    /// As [`MinimegaContainer::new`], with the roots in this directory instead of the usual one.
    pub fn with_cache(spec: &TestbedSpec, cache: PathBuf) -> Self {
        Self { prepared: Prepared::new(spec.minimega.clone(), Some(cache)), known: Mutex::default() }
    }

    /// `None` for a filesystem of the user's.
    async fn root(&self, request: &Request) -> Result<Option<Arc<Root>>, TestbedError> {
        let spec = &self.prepared.spec;
        if spec.filesystem.is_some() {
            return Ok(None);
        }
        let mut known = self.known.lock().await;
        let programs = programs(&spec.programs, spec.stress, request);
        if let Some(root) = known.roots.get(&programs) {
            return Ok(Some(Arc::clone(root)));
        }
        let root = Arc::new(build(&programs, self.prepared.cache()?, request).await?);
        known.roots.insert(programs, Arc::clone(&root));
        Ok(Some(root))
    }

    /// What the containers of an iteration start from. vptest is put into the iteration's directory where it is not in there.
    async fn filesystem(&self, root: Option<&Root>, request: &Request) -> Result<Filesystem, TestbedError> {
        if let Some(root) = root {
            return Ok(Filesystem::Own(root.path.clone()));
        }
        let users = self.prepared.spec.filesystem.clone().unwrap_or_default();
        let bundle = self.bundle(request).await?;
        let place = request.scratch.join("vptest");
        let place = std::path::absolute(&place)
            .map_err(|source| TestbedError::Io { what: format!("find {}", place.display()), source })?;
        let (tar, into) = (Arc::clone(&bundle), place.clone());
        let unpack = move || tar::Archive::new(&tar.tar[..]).unpack(&into);
        let unpacked = blocking(unpack).await;
        unpacked
            .map_err(|source| TestbedError::Io { what: format!("unpack vptest in {}", place.display()), source })?;
        Ok(Filesystem::Users(users, place))
    }

    async fn bundle(&self, request: &Request) -> Result<Arc<Bundle>, TestbedError> {
        let mut known = self.known.lock().await;
        if let Some(bundle) = &known.bundle {
            return Ok(Arc::clone(bundle));
        }
        Ok(Arc::clone(known.bundle.insert(Arc::new(pack(request).await?))))
    }

    /// # Errors
    /// [`TestbedError::Unsupported`] for what a host of the containers' cannot do.
    async fn check_hosts(&self, request: &Request, tunnel: bool) -> Result<(), TestbedError> {
        let daemon = self.prepared.visible_daemon().await?;
        let places = self.prepared.places(&daemon, request).await?;
        let Some(both) = places.both() else { return self.check_host(&daemon, tunnel).await };
        for host in both {
            if host == daemon.host {
                self.check_host(&daemon, tunnel).await?;
            } else {
                let filesystem = self.prepared.spec.filesystem.as_deref().unwrap_or_default();
                afar::check(&daemon, host, filesystem, tunnel).await?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`TestbedError::Unsupported`] for what this host's minimega cannot do.
    async fn check_host(&self, daemon: &Daemon, tunnel: bool) -> Result<(), TestbedError> {
        let pid = daemon.peer().pid.unwrap_or_default();
        let missing = cgroup::missing(pid);
        if !missing.is_empty() {
            return Err(TestbedError::Unsupported {
                what: format!(
                    "minimega's containers need cgroups of version 1 at /sys/fs/cgroup, and {} are not there",
                    missing.join(", ")
                ),
                hint: Some(
                    "boot with `systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1`, or use \
                     the testbed minimega-kvm or netns"
                        .to_owned(),
                ),
            });
        }
        match &self.prepared.spec.filesystem {
            // As minimega sees it.
            Some(path) if !inside::has_directory(pid, Path::new(path)) => {
                return Err(TestbedError::Unsupported {
                    what: format!("minimega sees no directory {path}"),
                    hint: Some("`filesystem` in `[testbed.minimega]` is the root directory of a system".to_owned()),
                });
            }
            _ => {}
        }
        if !tunnel {
            return Ok(());
        }
        blocking(try_tunnel).await.map_err(|error| TestbedError::Unsupported {
            what: format!("tunnel = `gre`: this host's kernel, which containers share, makes no GRE tunnel: {error}"),
            hint: Some("modprobe ip_gre".to_owned()),
        })
    }
}

#[async_trait]
impl Testbed for MinimegaContainer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn beside(&self) -> Beside {
        Beside::No("minimega's switch works for all iterations at once, on any CPU")
    }

    async fn base_id(&self, request: &Request) -> Result<Option<String>, TestbedError> {
        Ok(self.root(request).await?.map(|root| root.base_id.clone()))
    }

    fn accepts(&self, tuple: &Tuple) -> Result<(), TestbedError> {
        wishes(NAME, tuple)?;
        if !is_apart(tuple) {
            return Ok(());
        }
        if self.prepared.spec.filesystem.is_none() {
            return Err(TestbedError::Request {
                testbed: NAME,
                what: "colocated = off: containers on another host are reached through their miniccc alone: they need a filesystem of \
                       your own with it as /miniccc, under the same path on both hosts (`filesystem` in `[testbed.minimega]`)"
                    .to_owned(),
            });
        }
        check_apart(NAME, &self.prepared.spec, tuple)
    }

    async fn preflight(&self, request: &Request) -> Result<(), TestbedError> {
        self.accepts(&request.tuple)?;
        let wishes = wishes(NAME, &request.tuple)?;
        self.check_hosts(request, wishes.tunnel).await?;
        self.prepared.may_capture(request).await?;
        self.root(request).await.map(drop)
    }

    async fn launch(&self, request: &Request) -> Result<Box<dyn Instance>, TestbedError> {
        let wishes = wishes(NAME, &request.tuple)?;
        self.prepared.may_capture(request).await?;
        let (daemon, root) = (self.prepared.daemon().await?, self.root(request).await?);
        let filesystem = self.filesystem(root.as_deref(), request).await?;
        let places = self.prepared.places(&daemon, request).await?;
        let bundle = match places {
            Places::Apart { .. } => Some(self.bundle(request).await?),
            Places::Alone | Places::Here(_) => None,
        };
        let made = (filesystem, bundle);
        let start = Up::launch(daemon, self.prepared.spec.clone(), made, wishes, (request, places));
        // Boxed: it holds the state of all the containers that are being started.
        let up = start.boxed().await?;
        Ok(Box::new(match root {
            Some(root) => up.with_root(&root),
            None => up,
        }))
    }

    async fn close(&self) {
        self.prepared.close().await;
    }
}

/// Makes a tunnel where nobody sees it.
fn try_tunnel() -> std::io::Result<()> {
    Network::new()?.run(|| {
        let (local, remote) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let tunnel = setup::gre(TUNNEL_INTERFACE, true, local, remote);
        Netlink::open()?.apply(&[tunnel]).map_err(|error| error.source)
    })
}

async fn build(programs: &BTreeSet<String>, cache: PathBuf, request: &Request) -> Result<Root, TestbedError> {
    let wanted = image::Request {
        // A container has the host's.
        kernel: KernelChoice::Full,
        programs: programs.iter().cloned().collect(),
        vptest: request.vptest.clone(),
        cache,
    };
    let notice = request.notice.clone();
    let stop = image::Stop::default();
    // Nobody waits for the thread when this is given up; it has to be told.
    let _given_up = image::StopOnDrop(stop.clone());
    let build = move || image::build_root_until(&wanted, &stop, &mut |step| notice.say(&told(step)));
    let root = tokio::task::spawn_blocking(build).await.map_err(|error| TestbedError::Io {
        what: "make the containers' filesystem".to_owned(),
        source: std::io::Error::other(error),
    })?;
    root.map_err(no_image)
}

async fn pack(request: &Request) -> Result<Bundle, TestbedError> {
    let vptest = request.vptest.clone();
    let packed = tokio::task::spawn_blocking(move || Bundle::of(&vptest)).await.map_err(|error| TestbedError::Io {
        what: "pack vptest for the containers".to_owned(),
        source: std::io::Error::other(error),
    })?;
    packed.map_err(|error| TestbedError::Unsupported {
        what: format!("vptest cannot be packed for the containers: {:#}", anyhow::Error::from(error)),
        hint: None,
    })
}
