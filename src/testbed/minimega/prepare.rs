//! What is found out once and then used by all iterations: the minimega, the guests' image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::cgroup;
use super::daemon::{DEFAULT_SOCKET, Daemon, Owner};
use super::disk;
use super::error::MinimegaError;
use super::far;
use super::hold::chain;
use super::kvm::is_apart;
use super::line::Line;
use super::mesh::Places;
use super::own::{self, Stamp};
use super::right::{Holder, Right};
use super::socket::Limits;
use crate::ids::NodeId;
use crate::image::{self, Bundle, Image};
use crate::instrument::capture::available_memory;
use crate::spec::{GuestBoot, GuestImage, MinimegaSpec, TapCapture};
use crate::testbed::qemu::prepare::{build, check_image, no_image, programs};
use crate::testbed::qemu::wishes::Wishes;
use crate::testbed::{Request, TestbedError};
use crate::text::printable;
use crate::workload::find_in_path;

/// See the module.
pub(super) struct Prepared {
    pub(super) spec: MinimegaSpec,
    /// `None` for the usual one.
    cache: Option<PathBuf>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    daemon: Option<Arc<Daemon>>,
    /// By the programs in them.
    images: BTreeMap<BTreeSet<String>, Arc<Image>>,
    /// Hash of the user's kernel and initramfs, and when they were looked at.
    own: Option<(Stamp, String)>,
    /// vptest for guests of the user's image.
    bundle: Option<Arc<Bundle>>,
    /// That to have minimega capture, where it is to.
    right: Option<Arc<Right>>,
}

/// What guests boot.
#[derive(Clone)]
pub(super) enum Booted {
    /// An image of vptest's.
    Image(Arc<Image>),
    /// One of the user's.
    Own {
        image: GuestImage,
        /// Of kernel and initramfs; `None` for disks.
        identity: Option<String>,
        bundle: Arc<Bundle>,
    },
}

impl Booted {
    /// Do guests write to disks of the user's, and not to snapshots of them?
    pub(super) fn keeps_disks(&self) -> bool {
        matches!(self, Self::Own { image: GuestImage { boot: GuestBoot::Disk { snapshot: false, .. }, .. }, .. })
    }
}

impl Prepared {
    pub(super) fn new(spec: MinimegaSpec, cache: Option<PathBuf>) -> Self {
        Self { spec, cache, known: Mutex::default() }
    }

    pub(super) fn cache(&self) -> Result<PathBuf, TestbedError> {
        self.cache.clone().map_or_else(image::default_cache, Ok).map_err(no_image)
    }

    fn socket(&self) -> &Path {
        Path::new(self.spec.socket.as_deref().unwrap_or(DEFAULT_SOCKET))
    }

    /// The minimega that runs now.
    ///
    /// # Errors
    /// [`TestbedError::Unsupported`] when none answers, or one that vptest cannot use.
    pub(super) async fn daemon(&self) -> Result<Arc<Daemon>, TestbedError> {
        let mut known = self.known.lock().await;
        if let Some(daemon) = known.daemon.as_ref().filter(|daemon| !daemon.peer().is_gone()) {
            return Ok(Arc::clone(daemon));
        }
        let daemon = Daemon::open(self.socket(), Limits::default()).await.map_err(|error| no_minimega(&error))?;
        known.daemon = Some(Arc::clone(&daemon));
        Ok(daemon)
    }

    /// The minimega that runs now, whose processes are to be seen from here.
    ///
    /// # Errors
    /// As [`Prepared::daemon`], and for one in another PID namespace.
    pub(super) async fn visible_daemon(&self) -> Result<Arc<Daemon>, TestbedError> {
        let daemon = self.daemon().await?;
        if daemon.peer().pid.is_none() {
            return Err(TestbedError::Unsupported {
                what: "minimega runs in another PID namespace, where vptest sees neither its guests nor their taps"
                    .to_owned(),
                hint: Some("run vptest on the same host as minimega, outside of containers".to_owned()),
            });
        }
        Ok(daemon)
    }

    /// Takes the right to have minimega capture, where the spec wants that, until [`Prepared::close`].
    ///
    /// # Errors
    /// [`TestbedError::Unsupported`] while another campaign has it, and as [`Prepared::daemon`].
    pub(super) async fn may_capture(&self, request: &Request) -> Result<(), TestbedError> {
        // Of two hosts, nothing is captured at the taps.
        if self.spec.capture != TapCapture::Minimega || is_apart(&request.tuple) {
            return Ok(());
        }
        let daemon = self.daemon().await?;
        let mut known = self.known.lock().await;
        if known.right.as_ref().is_some_and(|right| right.is_held()) {
            return Ok(());
        }
        let campaign = std::path::absolute(&request.campaign).unwrap_or_else(|_| request.campaign.clone());
        let namespaces = Owner::of(&request.campaign).prefix();
        let us = Holder { namespaces, campaign: campaign.to_string_lossy().into_owned() };
        let taken = Right::take(&daemon.base, &us).map_err(|source| TestbedError::Io {
            what: format!("take the right to capture in {}", daemon.base.display()),
            source,
        })?;
        match taken {
            Ok(right) => {
                known.right = Some(right);
                Ok(())
            }
            Err(holder) => Err(captured_by_another(&daemon, holder).await),
        }
    }

    /// Gives back what is held from one iteration to the next.
    pub(super) async fn close(&self) {
        self.known.lock().await.right = None;
    }

    /// # Errors
    /// [`TestbedError::Unsupported`] without an image or a minimega, [`TestbedError::Request`] for what does not fit.
    pub(super) async fn check(&self, wishes: &Wishes, request: &Request) -> Result<(), TestbedError> {
        if self.spec.result_disk.is_some() && find_in_path(disk::PROGRAM).is_none() {
            return Err(TestbedError::Unsupported {
                what: format!("{} not found: `result_disk` in `[testbed.minimega]` needs it", disk::PROGRAM),
                hint: Some(format!("apt-get install {}", disk::PACKAGE)),
            });
        }
        let daemon = self.visible_daemon().await?;
        self.may_capture(request).await?;
        let places = self.places(&daemon, request).await?;
        let nodes: Vec<NodeId> = wishes.topology.nodes().iter().map(|plan| plan.id).collect();
        let (here, there): (Vec<NodeId>, Vec<NodeId>) =
            nodes.into_iter().partition(|node| places.of(node.role).first().is_none_or(|host| *host == daemon.host));
        match &self.spec.image {
            Some(image) => {
                own::check(image, &here)?;
                if !there.is_empty() {
                    own::are_named_apart(image)?;
                }
                for node in &there {
                    far::check_image(&daemon, &places.of(node.role).concat(), image, *node).await?;
                }
                self.bundle(request).await?;
            }
            None => {
                let image = self.image(request).await?;
                let refused = |what| TestbedError::Request { testbed: wishes.topology.testbed, what };
                check_image(&image, wishes, &wishes.driver).map_err(refused)?;
            }
        }
        match available_memory() {
            Some(available) => wishes.check_memory_of(here.len() as u64, available),
            // A kernel that does not say how much there is will say when there is not enough.
            None => Ok(()),
        }
    }

    /// Where the machines of such a tuple go.
    ///
    /// # Errors
    /// As [`Places::apart`] and [`Places::together`].
    pub(super) async fn places(&self, daemon: &Daemon, request: &Request) -> Result<Places, TestbedError> {
        if is_apart(&request.tuple) {
            Places::apart(daemon, self.spec.hosts.as_ref()).await
        } else {
            Places::together(daemon).await
        }
    }

    /// What the guests boot.
    ///
    /// # Errors
    /// [`TestbedError::Unsupported`] when it cannot be made or read.
    pub(super) async fn booted(&self, request: &Request) -> Result<Booted, TestbedError> {
        let Some(image) = self.spec.image.clone() else { return Ok(Booted::Image(self.image(request).await?)) };
        let identity = self.own_identity(&image).await?;
        Ok(Booted::Own { image, identity, bundle: self.bundle(request).await? })
    }

    /// Tells images apart: of kernel and programs without vptest, or of the user's kernel and initramfs; `None` for disks.
    ///
    /// # Errors
    /// As [`Prepared::booted`].
    pub(super) async fn base_id(&self, request: &Request) -> Result<Option<String>, TestbedError> {
        match &self.spec.image {
            Some(image) => self.own_identity(image).await,
            None => Ok(Some(self.image(request).await?.base_id.clone())),
        }
    }

    /// Files that were changed meanwhile are read again.
    async fn own_identity(&self, image: &GuestImage) -> Result<Option<String>, TestbedError> {
        let mut known = self.known.lock().await;
        let Some(stamp) = own::stamp(image)? else { return Ok(None) };
        if let Some((_, identity)) = known.own.as_ref().filter(|(of, _)| *of == stamp) {
            return Ok(Some(identity.clone()));
        }
        let image = image.clone();
        let identity = blocking("read the guests' image", move || own::identity(&image)).await??;
        known.own = identity.clone().map(|identity| (stamp, identity));
        Ok(identity)
    }

    async fn bundle(&self, request: &Request) -> Result<Arc<Bundle>, TestbedError> {
        let mut known = self.known.lock().await;
        if let Some(bundle) = &known.bundle {
            return Ok(Arc::clone(bundle));
        }
        let vptest = request.vptest.clone();
        let packed = blocking("pack vptest for the guests", move || Bundle::of(&vptest)).await?;
        let packed = packed.map_err(|error| TestbedError::Unsupported {
            what: format!("vptest cannot be packed for the guests: {:#}", anyhow::Error::from(error)),
            hint: None,
        })?;
        Ok(Arc::clone(known.bundle.insert(Arc::new(packed))))
    }

    pub(super) async fn image(&self, request: &Request) -> Result<Arc<Image>, TestbedError> {
        let mut known = self.known.lock().await;
        let programs = programs(&self.spec.programs, self.spec.stress, request);
        if let Some(image) = known.images.get(&programs) {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(build(&self.spec.kernel, &programs, self.cache()?, request).await?);
        known.images.insert(programs, Arc::clone(&image));
        Ok(image)
    }
}

async fn blocking<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, TestbedError> {
    let failed = |error| TestbedError::Io { what: what.to_owned(), source: std::io::Error::other(error) };
    tokio::task::spawn_blocking(work).await.map_err(|error: tokio::task::JoinError| failed(error))
}

/// Which minimega answers at the usual socket, and what it says that it lacks.
///
/// # Errors
/// Why none can be used, in words.
pub async fn look() -> Result<String, String> {
    let daemon = Daemon::open(Path::new(DEFAULT_SOCKET), Limits::default()).await.map_err(|error| chain(&error))?;
    let found = format!("{} at {DEFAULT_SOCKET}", daemon.version.text);
    // Its own check does not look for them.
    let missing = daemon.peer().pid.map(cgroup::missing).unwrap_or_default();
    let found = match missing.as_slice() {
        [] => found,
        missing => format!("{found}; it can start no containers: no cgroups of version 1 ({})", missing.join(", ")),
    };
    match daemon.run(&Line::of(["check"])).await {
        Ok(_) => Ok(found),
        Err(MinimegaError::Refused { text, .. }) => Ok(format!("{found}; its own check says: {text}")),
        Err(error) => Err(chain(&error)),
    }
}

/// That another campaign has minimega capture, with the namespaces that it has now.
async fn captured_by_another(daemon: &Daemon, holder: Option<Holder>) -> TestbedError {
    let whose = match holder {
        None => "another campaign's".to_owned(),
        Some(Holder { namespaces, campaign }) => {
            // That there are none now, or that it does not say, is no reason to say less.
            let all = daemon.namespaces().await.unwrap_or_default();
            let mut names: Vec<String> = all.into_iter().filter(|name| name.starts_with(&namespaces)).collect();
            names.sort();
            if names.is_empty() {
                names.push(format!("{namespaces}*"));
            }
            let (campaign, names) = (printable(&campaign, 300), printable(&names.join(", "), 600));
            format!("those of the campaign in {campaign} (namespaces {names})")
        }
    };
    TestbedError::Unsupported {
        what: format!(
            "minimega's captures are {whose}: minimega numbers those of all namespaces together, and neither could be stopped \
             any more"
        ),
        hint: Some(
            "run the campaigns one after the other, or this one with `capture = \"vptest\"` in `[testbed.minimega]`"
                .to_owned(),
        ),
    }
}

fn no_minimega(error: &MinimegaError) -> TestbedError {
    let hint = "start it as root: `minimega -nostdin &`; `socket` in `[testbed.minimega]` says where its socket is when \
                that is not /tmp/minimega/minimega";
    TestbedError::Unsupported {
        what: format!("no minimega can be used: {}", chain(error)),
        hint: Some(hint.to_owned()),
    }
}
