//! What is found out about this host once and then used by all iterations: what QEMU offers, whether KVM works, the
//! guests' image.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::accel::{self, Trial, Verdict};
use super::args::{Accel, Boot, Hardware, Login, Machine};
use super::offers::Offers;
use super::up::BOOT_KVM;
use super::wishes::{AccelWish, Wishes};
use super::{NAME, PROGRAM};
use crate::host::tap;
use crate::image::{self, Bundle, Image, KernelChoice, Step};
use crate::spec::{GuestAccess, GuestKernel, QemuSpec, SshSpec, StressPlace, Tuple};
use crate::testbed::lan::preflight::Tried;
use crate::testbed::{Request, TestbedError};
use crate::workload::find_in_path;

/// See the module.
pub(super) struct Prepared {
    spec: QemuSpec,
    /// `None` for the usual one.
    cache: Option<PathBuf>,
    network: Tried,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    offers: Option<Offers>,
    /// By the programs in it.
    images: BTreeMap<BTreeSet<String>, Arc<Image>>,
    verdict: Option<Verdict>,
    /// vptest for guests behind ssh.
    program: Option<Arc<Bundle>>,
}

/// A tuple's wishes with what this host makes of them.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub(super) wishes: Wishes,
    pub(super) hardware: Hardware,
    pub(super) boot: Boot,
    /// `None` for a disk of the user's.
    pub(super) image: Option<Arc<Image>>,
    /// `None` when KVM was out of the question.
    pub(super) verdict: Option<Verdict>,
    pub(super) spec: QemuSpec,
    /// QEMU's version.
    pub(super) qemu: String,
}

impl Prepared {
    pub(super) fn new(spec: QemuSpec, cache: Option<PathBuf>) -> Self {
        Self { spec, cache, network: Tried::default(), known: Mutex::default() }
    }

    fn cache(&self) -> Result<PathBuf, TestbedError> {
        self.cache.clone().map_or_else(image::default_cache, Ok).map_err(no_image)
    }

    pub(super) fn has_disk(&self) -> bool {
        self.spec.disk.is_some()
    }

    /// Everything that can be said before a guest is started, except about memory.
    pub(super) async fn check(&self, wishes: &Wishes, request: &Request) -> Result<(), TestbedError> {
        self.network.check(&wishes.topology).await?;
        tap::available().map_err(|error| TestbedError::Unsupported {
            what: format!("this host makes no taps: {error}"),
            hint: Some("load the kernel module with `sudo modprobe tun`; run it as root".to_owned()),
        })?;
        self.resolve(wishes.clone(), request).await.map(drop)
    }

    /// # Errors
    /// [`TestbedError::Unsupported`] without QEMU or an image, [`TestbedError::Request`] for what they do not offer.
    pub(super) async fn resolve(&self, wishes: Wishes, request: &Request) -> Result<Resolved, TestbedError> {
        let mut known = self.known.lock().await;
        if known.offers.is_none() {
            known.offers = Some(Offers::ask().await?);
        }
        let offers = known.offers.clone().expect("they were asked for just now");
        let driver = offers.card(&wishes.driver, wishes.machine).map_err(refused)?.to_owned();
        let (mut boot, image) = match &self.spec.disk {
            Some(_) if wishes.machine == Machine::Microvm => {
                return Err(refused("machine = `microvm` boots no disk: it has no firmware that could".to_owned()));
            }
            Some(disk) => {
                let login = match &self.spec.access {
                    GuestAccess::Agent => None,
                    GuestAccess::Ssh(ssh) => Some(login(ssh, &mut known, request).await?),
                };
                (disk_boot(Path::new(disk), login)?, None)
            }
            None => {
                let image = self.image(&mut known, request).await?;
                check_image(&image, &wishes, &driver).map_err(refused)?;
                let tunnel = wishes.tunnel.then_some("ip_gre");
                let modules: Vec<&str> = image::module_of(&driver).into_iter().chain(tunnel).collect();
                (kernel_boot(&image, &modules)?, Some(image))
            }
        };
        let verdict = match wishes.accel {
            AccelWish::Tcg => None,
            AccelWish::Auto | AccelWish::Kvm => Some(self.verdict(&mut known, &boot, &offers, request).await?),
        };
        let accel = match (&verdict, wishes.accel) {
            (Some(verdict), AccelWish::Kvm) if !verdict.works => {
                return Err(refused(format!("accel = `kvm`: {}", verdict.reason)));
            }
            (Some(verdict), _) => verdict.accel(),
            (None, _) => Accel::Tcg,
        };
        if let (Accel::Tcg, Boot::Kernel { arguments, .. }) = (accel, &mut boot) {
            *arguments = format!("{arguments} {}", image::tcg_arguments());
        }
        let hardware = Hardware {
            machine: wishes.machine,
            accel,
            driver,
            vcpus: wishes.vcpus,
            memory: wishes.memory,
            cpu: self.spec.cpu.clone(),
            arguments: self.spec.arguments.clone(),
        };
        Ok(Resolved { wishes, hardware, boot, image, verdict, spec: self.spec.clone(), qemu: offers.version })
    }

    /// Hash of the guests' kernel and programs without vptest; `None` for a disk of the user's.
    pub(super) async fn base_id(&self, request: &Request) -> Result<Option<String>, TestbedError> {
        if self.has_disk() {
            return Ok(None);
        }
        let mut known = self.known.lock().await;
        Ok(Some(self.image(&mut known, request).await?.base_id.clone()))
    }

    async fn image(&self, known: &mut Known, request: &Request) -> Result<Arc<Image>, TestbedError> {
        let programs = programs(&self.spec.programs, self.spec.stress, request);
        if let Some(image) = known.images.get(&programs) {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(build(&self.spec.kernel, &programs, self.cache()?, request).await?);
        known.images.insert(programs, Arc::clone(&image));
        Ok(image)
    }

    async fn verdict(
        &self,
        known: &mut Known,
        boot: &Boot,
        offers: &Offers,
        request: &Request,
    ) -> Result<Verdict, TestbedError> {
        if let Some(verdict) = &known.verdict {
            return Ok(verdict.clone());
        }
        let cache = self.cache()?;
        let own = !self.has_disk() && !matches!(self.spec.kernel, GuestKernel::Path { .. });
        let limit = if own { accel::LIMIT } else { self.spec.boot_timeout.unwrap_or(BOOT_KVM.0) };
        let trial = Trial { boot, own, limit };
        let (verdict, lasts) = accel::verdict(trial, &offers.version, &cache, &request.scratch).await;
        if lasts {
            known.verdict = Some(verdict.clone());
        }
        Ok(verdict)
    }
}

/// Programs that the guests' image has to have.
pub(in crate::testbed) fn programs(named: &[String], stress: StressPlace, request: &Request) -> BTreeSet<String> {
    let mut programs: BTreeSet<String> = named.iter().chain(&request.programs).cloned().collect();
    if stress == StressPlace::Guest && stressed(&request.tuple) {
        programs.insert("stress-ng".to_owned());
    }
    programs
}

/// Makes the guests' image, or finds it in the cache.
///
/// # Errors
/// [`TestbedError::Unsupported`] when it cannot be made.
pub(in crate::testbed) async fn build(
    kernel: &GuestKernel,
    programs: &BTreeSet<String>,
    cache: PathBuf,
    request: &Request,
) -> Result<Image, TestbedError> {
    let wanted = image::Request {
        kernel: kernel_choice(kernel),
        programs: programs.iter().cloned().collect(),
        vptest: request.vptest.clone(),
        cache,
    };
    let notice = request.notice.clone();
    let stop = image::Stop::default();
    // Nobody waits for the thread when this is given up; it has to be told.
    let _given_up = image::StopOnDrop(stop.clone());
    let build = move || image::build_until(&wanted, &stop, &mut |step| notice.say(&told(step)));
    let image = tokio::task::spawn_blocking(build).await.map_err(|error| TestbedError::Io {
        what: "build the guests' image".to_owned(),
        source: std::io::Error::other(error),
    })?;
    image.map_err(no_image)
}

fn stressed(tuple: &Tuple) -> bool {
    ["stress_cpu", "stress_io", "stress_mem"].iter().any(|name| tuple.integer(name).is_some_and(|count| count > 0))
}

pub(in crate::testbed) fn told(step: Step<'_>) -> String {
    match step {
        Step::Resolve => "image: looking for the kernel".to_owned(),
        Step::Download(package) => format!("image: downloading {package}"),
        Step::Unpack(package) => format!("image: unpacking {package}"),
        Step::Assemble => "image: putting it together".to_owned(),
        Step::Wait => "image: waiting for another build".to_owned(),
    }
}

fn refused(what: String) -> TestbedError {
    TestbedError::Request { testbed: NAME, what }
}

pub(in crate::testbed) fn no_image(error: image::ImageError) -> TestbedError {
    let hint = error.hint().or_else(|| Some("`vptest image build` makes it".to_owned()));
    TestbedError::Unsupported { what: format!("no image for the guests: {:#}", anyhow::Error::from(error)), hint }
}

fn kernel_choice(kernel: &GuestKernel) -> KernelChoice {
    match kernel {
        GuestKernel::Full => KernelChoice::Full,
        GuestKernel::Cloud => KernelChoice::Cloud,
        GuestKernel::Path { kernel, modules } => {
            KernelChoice::Paths { kernel: PathBuf::from(kernel), modules: modules.as_ref().map(PathBuf::from) }
        }
    }
}

/// Does the image fit into the guests, and has its kernel what the tuple needs?
pub(in crate::testbed) fn check_image(image: &Image, wishes: &Wishes, driver: &str) -> Result<(), String> {
    // The kernel, the archive, and what is unpacked of it into half of the rest.
    let least = image.kernel_bytes.saturating_add(image.initramfs_bytes.saturating_mul(3));
    if wishes.memory.0 < least {
        let memory = wishes.memory;
        let least = least.div_ceil(1 << 20);
        return Err(format!("memory = `{memory}`: the guests' image {} needs at least {least} MiB", image.id));
    }
    let kernel = format!("{} (image {})", image.kernel_release, image.id);
    match image.has_driver(driver) {
        Some(true) => {}
        Some(false) => {
            let module = image::module_of(driver).unwrap_or(driver);
            return Err(format!(
                "driver = `{driver}`: the guests' kernel {kernel} has no module {module} (kernel = \"full\" has those of \
                 all usual network cards)"
            ));
        }
        None => {
            return Err(format!(
                "driver = `{driver}`: {PROGRAM} has it, but which kernel module drives it is not known"
            ));
        }
    }
    if wishes.tunnel && !image.has_module("ip_gre") {
        return Err(format!("tunnel = `gre`: the guests' kernel {kernel} has no module ip_gre"));
    }
    Ok(())
}

/// `modules` are loaded at boot, besides those that every guest needs.
pub(super) fn kernel_boot(image: &Image, modules: &[&str]) -> Result<Boot, TestbedError> {
    Ok(Boot::Kernel {
        kernel: text(&image.kernel)?,
        initramfs: text(&image.initramfs)?,
        arguments: format!("{} ipv6.disable_ipv6=1 vptest.modules={}", image::KERNEL_ARGUMENTS, modules.join(",")),
    })
}

/// Everything for ssh that can be seen to be there before a guest is started.
async fn login(ssh: &SshSpec, known: &mut Known, request: &Request) -> Result<Login, TestbedError> {
    if find_in_path("ssh").is_none() {
        let hint = "apt-get install openssh-client".to_owned();
        return Err(TestbedError::Unsupported { what: "ssh not found".to_owned(), hint: Some(hint) });
    }
    let identity = ssh.identity.as_deref().map(|path| {
        // ssh itself would go on without it.
        let readable = |path: PathBuf| std::fs::File::open(&path).map(|_| path);
        std::path::absolute(path).and_then(readable).map_err(|error| TestbedError::Unsupported {
            what: format!("cannot read the key {path}: {error}"),
            hint: Some(
                "`identity` in `[testbed.qemu.ssh]` is a private key, relative to where vptest was started".to_owned(),
            ),
        })
    });
    let identity = identity.transpose()?;
    if known.program.is_none() {
        Offers::has_own_networks().await?;
        let vptest = request.vptest.clone();
        let packed = tokio::task::spawn_blocking(move || Bundle::of(&vptest)).await.map_err(|error| {
            TestbedError::Io { what: "pack vptest for the guests".to_owned(), source: std::io::Error::other(error) }
        })?;
        let packed = packed.map_err(|error| TestbedError::Unsupported {
            what: format!("vptest cannot be packed for the guests: {:#}", anyhow::Error::from(error)),
            hint: None,
        })?;
        known.program = Some(Arc::new(packed));
    }
    let program = known.program.clone().expect("it was packed just now");
    Ok(Login { user: ssh.user.clone(), identity, host_key: ssh.host_key.clone(), program })
}

/// A disk image: qcow2 by its magic number, otherwise raw.
fn disk_boot(path: &Path, login: Option<Login>) -> Result<Boot, TestbedError> {
    const QCOW2: [u8; 4] = *b"QFI\xfb";
    let failed = |error: std::io::Error| TestbedError::Unsupported {
        what: format!("cannot read the disk {}: {error}", path.display()),
        hint: Some("`disk` in `[testbed.qemu]` is a path, relative to where vptest was started".to_owned()),
    };
    let path = std::path::absolute(path).map_err(failed)?;
    let mut magic = Vec::new();
    std::fs::File::open(&path).and_then(|file| file.take(4).read_to_end(&mut magic)).map_err(failed)?;
    let format = if magic == QCOW2 { "qcow2" } else { "raw" };
    Ok(Boot::Disk { path: text(&path)?, format: format.to_owned(), login })
}

/// Paths become arguments, which are text.
fn text(path: &Path) -> Result<String, TestbedError> {
    path.to_str().map(str::to_owned).ok_or_else(|| TestbedError::Unsupported {
        what: format!("the path {} is not UTF-8", path.display()),
        hint: Some("choose another place for it".to_owned()),
    })
}
