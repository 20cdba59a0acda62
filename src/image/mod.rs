//! Guest images: a kernel and an initramfs from packages of the host's distribution.
//!
//! Nothing here needs root, mounts or boots anything. The kernel is downloaded as a package and unpacked; the programs
//! and their shared libraries are those of the host; `vptest` itself is the guest's first process. Images are kept in a
//! cache under the hash of their contents, and the same inputs give the same bytes.

mod archive;
mod boot_image;
mod bundle;
mod cache;
mod content;
mod drivers;
mod elf;
mod error;
mod expand;
mod hashed;
mod kernel;
mod libraries;
mod modules;
mod packages;
mod programs;
mod root;
mod stop;
mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub use bundle::{BUNDLE_BINARY, BUNDLE_PROGRAM, Bundle};
pub use drivers::{module_of, modules_for};
pub use elf::trimmed;
pub use error::ImageError;
pub use root::{Root, build_root_until};
pub use stop::{Stop, StopOnDrop};

/// Where the kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelChoice {
    /// The distribution's usual kernel: `linux-image-amd64`, on Ubuntu `linux-image-generic`.
    Full,
    /// The distribution's kernel for virtual machines: `linux-image-cloud-amd64`, on Ubuntu `linux-image-virtual`.
    ///
    /// Fewer drivers: no e1000 and the like on Debian.
    Cloud,
    /// The user's own.
    Paths {
        /// `vmlinuz` (a bzImage) or `vmlinux` (an ELF file).
        kernel: PathBuf,
        /// Its modules, such as `/lib/modules/6.1.0-50-amd64`; `None` where all is built in.
        modules: Option<PathBuf>,
    },
}

/// What an image is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its kernel.
    pub kernel: KernelChoice,
    /// Programs beside the usual ones, by name or path; each must be there.
    pub programs: Vec<String>,
    /// The program that is to be the guest's first process: a `vptest`, usually the running one.
    pub vptest: PathBuf,
    /// Directory of the cache; see [`default_cache`].
    pub cache: PathBuf,
}

/// A finished image in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Hash of kernel and initramfs: 16 hexadecimal digits.
    pub id: String,
    /// The same without vptest itself: equal for images that differ only in the version of vptest.
    pub base_id: String,
    /// What to give to QEMU's `-kernel`: an ELF file with a PVH note, or a bzImage.
    pub kernel: PathBuf,
    /// Can the kernel be entered through PVH (an uncompressed ELF file)? The `microvm` machine boots quickest so.
    pub pvh: bool,
    /// What to give to `-initrd`.
    pub initramfs: PathBuf,
    /// As `uname -r` prints it in the guest.
    pub kernel_release: String,
    /// The package and version that the kernel came from, or its path.
    pub kernel_source: String,
    /// Modules in the image and those built into the kernel, with `_` for `-`.
    pub modules: BTreeSet<String>,
    /// Programs in the image, by the path they have in the guest.
    pub programs: Vec<String>,
    /// Usual programs that are not in it because this host lacks them.
    pub missing: Vec<String>,
    /// Size of the kernel in bytes.
    pub kernel_bytes: u64,
    /// Size of the initramfs in bytes.
    pub initramfs_bytes: u64,
    /// When it was built, in seconds since 1970.
    pub built: i64,
}

impl Image {
    /// Does the guest know this module (built in, or as a file)? `-` and `_` are the same.
    pub fn has_module(&self, name: &str) -> bool {
        self.modules.contains(&name.replace('-', "_"))
    }

    /// Has the image the driver of this QEMU device (`e1000`, `virtio-net-pci`)? `None` for a device not known here.
    pub fn has_driver(&self, device: &str) -> Option<bool> {
        module_of(device).map(|module| self.has_module(module))
    }
}

/// What a build is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Looking up which package is the kernel.
    Resolve,
    /// Downloading a package.
    Download(&'a str),
    /// Unpacking a package.
    Unpack(&'a str),
    /// Putting the initramfs together.
    Assemble,
    /// Waiting for another build in the same cache.
    Wait,
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve => f.write_str("looking for the newest kernel in the package lists"),
            Self::Download(package) => write!(f, "downloading {package}"),
            Self::Unpack(package) => write!(f, "unpacking {package}"),
            Self::Assemble => f.write_str("putting the initramfs together"),
            Self::Wait => f.write_str("waiting for another build in the same cache"),
        }
    }
}

/// Kernel arguments that every guest gets; `vptest.node=` and what follows `--` are the testbed's.
///
/// Those after `rdinit` shorten the boot: no test of the timer interrupt and of ciphers, no rewriting of locks for one
/// processor. What measurements depend on stays the
/// distribution's, above all the mitigations of processor faults.
pub const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 reboot=t rdinit=/bin/vptest no_timer_check \
    noreplace-smp cryptomgr.notests";

/// Further kernel arguments for a guest under TCG: its time stamp counter is this host's, and need not be measured.
///
/// Measuring takes time, and on a busy host it fails: then `microvm`, which has no other clock, hangs at boot. Under KVM
/// guests are told by KVM.
pub fn tcg_arguments() -> String {
    match crate::host::clock::tsc_khz() {
        Some(khz) => format!("tsc=reliable tsc_early_khz={khz}"),
        None => String::new(),
    }
}

/// The cache: `$VPTEST_CACHE`, else `vptest` in `$XDG_CACHE_HOME` or in `~/.cache`.
///
/// # Errors
///
/// None of these is set.
pub fn default_cache() -> Result<PathBuf, ImageError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("VPTEST_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|base| base.join("vptest")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/vptest")))
        .ok_or(ImageError::NoCache)
}

/// Makes an image, or finds it in the cache. Blocks; a second call with the same inputs takes milliseconds.
///
/// A build that is interrupted leaves nothing that looks like an image. Two builds at once are safe.
///
/// # Errors
///
/// See [`ImageError`].
pub fn build(request: &Request, progress: &mut dyn FnMut(Step<'_>)) -> Result<Image, ImageError> {
    cache::build(request, progress)
}

/// As [`build`], but it ends when `stop` is used, and leaves nothing then.
///
/// # Errors
///
/// [`ImageError::Stopped`], and those of [`build`].
pub fn build_until(request: &Request, stop: &Stop, progress: &mut dyn FnMut(Step<'_>)) -> Result<Image, ImageError> {
    stop::until(stop, || cache::build(request, progress))
}

/// All images in a cache, the newest first. A cache that does not exist has none; damaged ones are warned of.
///
/// # Errors
///
/// The cache cannot be read.
pub fn list(cache: &Path) -> Result<Vec<Image>, ImageError> {
    cache::list(cache)
}

/// Removes the image whose id begins with `id`; returns its bytes.
///
/// # Errors
///
/// No image or more than one begins so, or it cannot be removed.
pub fn remove(cache: &Path, id: &str) -> Result<u64, ImageError> {
    cache::remove(cache, id)
}

/// Where vptest itself is in the guest.
const VPTEST: &str = "bin/vptest";

/// A directory that is removed unless it is put in place; its name says that it is unfinished.
fn beside(directory: &Path) -> Result<TempDir, ImageError> {
    tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempdir_in(directory)
        .map_err(ImageError::file("write into", directory))
}

fn put_in_place(ready: TempDir, place: &Path) -> Result<(), ImageError> {
    let failed = || ImageError::file("write", place);
    // Temporary directories are for their owner alone; the cache may be shared.
    fs::set_permissions(ready.path(), fs::Permissions::from_mode(0o755)).map_err(failed())?;
    fs::rename(ready.path(), place).map_err(failed())?;
    // Nothing is left where it was.
    let _ = ready.keep();
    Ok(())
}
