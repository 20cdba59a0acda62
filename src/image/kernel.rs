//! The kernel of an image and its modules, from packages or from the user's own files.

use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use super::boot_image::{BootImage, boot_image};
use super::drivers::{AT_BOOT, wanted};
use super::hashed::of_parts;
use super::modules::Modules;
use super::packages::{self, Package};
use super::watch::Watch;
use super::{ImageError, KernelChoice, Step};

/// A kernel with everything that guests need of it.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: BootImage,
    pub(super) modules: Modules,
    /// Package and version, or path.
    pub(super) source: String,
}

/// Packages that stand for a distribution's newest kernel, Debian's and Ubuntu's.
const FULL: [&str; 2] = ["linux-image-amd64", "linux-image-generic"];
const CLOUD: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

impl Kernel {
    /// Gets the kernel ready; what comes from packages is kept unpacked in the cache.
    pub(super) fn prepare(
        choice: &KernelChoice,
        cache: &Path,
        watch: &mut Watch,
        progress: &mut dyn FnMut(Step<'_>),
    ) -> Result<Self, ImageError> {
        let kernel = match choice {
            KernelChoice::Full => Self::from_packages(&FULL, cache, watch, progress)?,
            KernelChoice::Cloud => Self::from_packages(&CLOUD, cache, watch, progress)?,
            KernelChoice::Paths { kernel, modules } => Self::from_paths(kernel, modules.as_deref(), watch)?,
        };
        // Without the agent's transport no guest can be talked to; virtio_pci or virtio_mmio depends on the machine.
        let console = kernel.modules.names().contains("virtio_console");
        let transport =
            AT_BOOT.iter().any(|name| name.starts_with("virtio_p") && kernel.modules.names().contains(*name));
        for (there, module) in [(console, "virtio_console"), (transport, "virtio_pci")] {
            if !there {
                return Err(ImageError::Module {
                    release: kernel.image.release,
                    module: module.to_owned(),
                    text: "it is missing, and the agent is reached through it; give --modules DIR".to_owned(),
                });
            }
        }
        Ok(kernel)
    }

    fn from_paths(kernel: &Path, modules: Option<&Path>, watch: &mut Watch) -> Result<Self, ImageError> {
        let refused = |text| ImageError::Kernel { path: kernel.to_owned(), text };
        let image = boot_image(watch.read(kernel)?).map_err(refused)?;
        let modules = match modules {
            Some(directory) => Modules::collect(directory, &image.release, &wanted(), watch)?,
            None => Modules::built_in_everything(),
        };
        Ok(Self { image, modules, source: kernel.display().to_string() })
    }

    fn from_packages(
        names: &[&str],
        cache: &Path,
        watch: &mut Watch,
        progress: &mut dyn FnMut(Step<'_>),
    ) -> Result<Self, ImageError> {
        progress(Step::Resolve);
        // New lists may name a newer kernel.
        for path in ["/var/lib/apt/lists", "/etc/apt/preferences", "/etc/apt/preferences.d"] {
            watch.note(Path::new(path));
        }
        let packages = packages::kernel(names)?;
        let directory = unpacked(&packages, cache, progress)?;
        let unwatched = &mut Watch::default();
        let path = directory.join(KERNEL);
        let refused = |text| ImageError::Kernel { path: path.clone(), text };
        let image = boot_image(fs::read(&path).map_err(ImageError::file("read", &path))?).map_err(refused)?;
        let modules = Modules::collect(&directory.join(MODULES), &image.release, &wanted(), unwatched)?;
        Ok(Self { image, modules, source: packages[0].title() })
    }
}

/// Names in a directory of `CACHE/kernels`.
const KERNEL: &str = "kernel";
const MODULES: &str = "modules";

/// The directory with the kernel (uncompressed) and those of its modules that images hold; made unless it is there.
fn unpacked(packages: &[Package], cache: &Path, progress: &mut dyn FnMut(Step<'_>)) -> Result<PathBuf, ImageError> {
    let key = of_parts(packages.iter().map(Package::sha256).chain(wanted()));
    let kernels = cache.join("kernels");
    let directory = kernels.join(&key[..16]);
    if directory.is_dir() {
        return Ok(directory);
    }
    fs::create_dir_all(&kernels).map_err(ImageError::file("make", &kernels))?;
    let whole = super::beside(&kernels)?;
    for package in packages {
        let file = packages::download(package, &cache.join("packages"), progress)?;
        progress(Step::Unpack(&package.title()));
        unpack(&file, whole.path())?;
    }
    let ready = super::beside(&kernels)?;
    keep(whole.path(), ready.path(), &packages[0])?;
    super::put_in_place(ready, &directory)?;
    Ok(directory)
}

/// Bytes of one file of a kernel's package; kernels and modules with everything for debuggers stay below it.
const MOST_BYTES: u64 = 1 << 30;

/// Writes the kernel and all modules of a package into a directory: `kernel`, `modules/…`.
fn unpack(package: &Path, directory: &Path) -> Result<(), ImageError> {
    let refused = |text| ImageError::Package { path: package.to_owned(), text };
    packages::each_file(package, |path, content| {
        let Some(target) = place(path).map_err(refused)? else { return Ok(()) };
        let target = directory.join(target);
        let above = target.parent().unwrap_or(directory);
        fs::create_dir_all(above).map_err(ImageError::file("make", above))?;
        let mut bytes = Vec::new();
        content.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(ImageError::file("read", package))?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(refused(format!("{} has more than {MOST_BYTES} bytes", path.display())));
        }
        fs::write(&target, bytes).map_err(ImageError::file("write", &target))
    })
}

/// Where a file of a kernel's package goes, below the directory it is unpacked into; `None` for one that is not wanted.
///
/// # Errors
/// The text of a path that leads elsewhere.
fn place(path: &Path) -> Result<Option<PathBuf>, String> {
    let Some(text) = path.to_str() else { return Ok(None) };
    if text.starts_with("boot/vmlinuz-") {
        return Ok(Some(PathBuf::from(KERNEL)));
    }
    let below = |prefix| path.strip_prefix(prefix).ok();
    let Some(rest) = below("lib/modules").or_else(|| below("usr/lib/modules")) else { return Ok(None) };
    // `RELEASE/kernel/…`: there is one release in a kernel's packages.
    let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || rest.components().count() < 2 {
        return Err(format!("the path {text:?} leads elsewhere"));
    }
    Ok(Some(Path::new(MODULES).join(rest.components().skip(1).collect::<PathBuf>())))
}

/// Takes over what images hold, uncompressed.
fn keep(whole: &Path, ready: &Path, package: &Package) -> Result<(), ImageError> {
    let refused = |text| ImageError::Kernel { path: PathBuf::from(package.title()), text };
    let path = whole.join(KERNEL);
    let image = fs::read(&path).map_err(|_| refused("the package has no file boot/vmlinuz-…".to_owned()))?;
    let image = boot_image(image).map_err(refused)?;
    let modules = Modules::collect(&whole.join(MODULES), &image.release, &wanted(), &mut Watch::default())?;
    let write = |path: PathBuf, content: &[u8]| fs::write(&path, content).map_err(ImageError::file("write", &path));
    write(ready.join(KERNEL), &image.bytes)?;
    let directory = ready.join(MODULES);
    fs::create_dir(&directory).map_err(ImageError::file("make", &directory))?;
    for (name, content) in &modules.files {
        write(directory.join(format!("{name}.ko")), content)?;
    }
    let built_in: String = modules.built_in.iter().map(|name| format!("{name}.ko\n")).collect();
    write(directory.join("modules.builtin"), built_in.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_package_stay_below_the_directory() {
        let at = |path: &str| place(Path::new(path));
        assert_eq!(at("boot/vmlinuz-6.1.0-50-amd64"), Ok(Some(PathBuf::from("kernel"))));
        let module = Ok(Some(PathBuf::from("modules/kernel/a.ko.xz")));
        assert_eq!(at("lib/modules/6.1.0/kernel/a.ko.xz"), module);
        assert_eq!(at("usr/lib/modules/6.1.0/./kernel/a.ko.xz"), module);
        assert_eq!(at("usr/share/doc/../copyright"), Ok(None));
        for path in ["lib/modules/6.1.0/../../../etc/passwd", "lib/modules/../x/y", "lib/modules/6.1.0", "lib/modules"]
        {
            assert!(at(path).unwrap_err().contains("leads elsewhere"), "{path}");
        }
    }
}
