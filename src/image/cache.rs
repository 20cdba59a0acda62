//! The cache of images, and building into it.
//!
//! `images/ID/{vmlinux,initramfs.cpio,manifest.json}` are images, whole or absent; `memo/KEY.json` says which image came
//! of which inputs; `kernels` holds unpacked kernels and `packages` downloaded packages. All but the packages can be
//! made again without the network. `lock` is held by the one that builds. `super::root`
//! keeps the roots of containers beside the images.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::content::{Content, content};
use super::hashed::{Hashed, of_parts};
use super::kernel::Kernel;
use super::watch::Watch;
use super::{Image, ImageError, Request, Step, VPTEST};

/// Goes up whenever the same inputs give another image.
const FORMAT: u32 = 2;

const MANIFEST: &str = "manifest.json";
const KERNEL: &str = "vmlinux";
const INITRAMFS: &str = "initramfs.cpio";

/// Which image came of a request, as long as nothing that was looked at changes.
#[derive(Serialize, Deserialize)]
pub(super) struct Memo {
    pub(super) id: String,
    pub(super) watch: Watch,
}

pub(super) fn build(request: &Request, progress: &mut dyn FnMut(Step<'_>)) -> Result<Image, ImageError> {
    let memo = memo_path(request);
    if let Some(image) = remembered(request, &memo) {
        return Ok(image);
    }
    let cache = &request.cache;
    fs::create_dir_all(cache).map_err(ImageError::file("make", cache))?;
    let _lock = lock(cache, progress)?;
    // Another one may have built it while this one waited.
    if let Some(image) = remembered(request, &memo) {
        return Ok(image);
    }
    remove_halves(cache);
    let mut watch = Watch::default();
    let kernel = Kernel::prepare(&request.kernel, cache, &mut watch, progress)?;
    super::stop::check()?;
    progress(Step::Assemble);
    let content = content(request, Some(&kernel), &mut watch)?;
    super::stop::check()?;
    let image = store(cache, &kernel, content)?;
    remember(&memo, &Memo { id: image.id.clone(), watch })?;
    Ok(image)
}

pub(super) fn lock(cache: &Path, progress: &mut dyn FnMut(Step<'_>)) -> Result<File, ImageError> {
    let path = cache.join("lock");
    let failed = || ImageError::file("lock", &path);
    let file = File::create(&path).map_err(failed())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress(Step::Wait);
            loop {
                super::stop::pause()?;
                match file.try_lock() {
                    Ok(()) => break,
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => return Err(failed()(error)),
                }
            }
        }
        Err(TryLockError::Error(error)) => return Err(failed()(error)),
    }
    Ok(file)
}

/// What interrupted builds left. Whoever holds the lock is the only one that builds.
pub(super) fn remove_halves(cache: &Path) {
    for directory in ["images", "kernels", "packages", super::root::ROOTS] {
        let entries = fs::read_dir(cache.join(directory)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')) {
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!("cannot remove {}: {error}", entry.path().display());
            }
        }
    }
}

fn memo_path(request: &Request) -> PathBuf {
    let directory = std::env::current_dir().unwrap_or_default();
    let what = format!("{FORMAT} {:?} {:?} {:?}", request.kernel, request.programs, request.vptest);
    let place = format!("{:?} {directory:?}", std::env::var_os("PATH"));
    request.cache.join("memo").join(short(&of_parts([what.as_str(), &place, env!("CARGO_PKG_VERSION")])) + ".json")
}

/// The first 16 digits tell as many images apart as anyone will ever build.
pub(super) fn short(hash: &str) -> String {
    hash[..16].to_owned()
}

fn remembered(request: &Request, memo: &Path) -> Option<Image> {
    let memo: Memo = serde_json::from_slice(&fs::read(memo).ok()?).ok()?;
    // A damaged image is built again.
    memo.watch.is_unchanged().then(|| open(&request.cache, &memo.id).ok())?
}

pub(super) fn remember(path: &Path, memo: &Memo) -> Result<(), ImageError> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).map_err(ImageError::file("make", directory))?;
    let text = serde_json::to_vec(memo).map_err(|error| ImageError::file("write", path)(error.into()))?;
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&text)?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(drop).map_err(ImageError::file("write", path))
}

/// Writes the image beside its place and moves it there.
fn store(cache: &Path, kernel: &Kernel, content: Content) -> Result<Image, ImageError> {
    let images = cache.join("images");
    fs::create_dir_all(&images).map_err(ImageError::file("make", &images))?;
    let beside = super::beside(&images)?;
    let mut tree = content.tree;
    let kernel_hash = write_hashed(&beside.path().join(KERNEL), |out| out.write_all(&kernel.image.bytes))?;
    let initramfs_hash = write_hashed(&beside.path().join(INITRAMFS), |out| tree.write(out))?;
    tree.remove(VPTEST);
    let mut rest = Hashed::new(io::sink());
    let rest = tree.write(&mut rest).and_then(|()| rest.finish()).map_err(ImageError::file("write", &images))?;
    let id = |initramfs: &str| short(&of_parts([kernel_hash.0.as_str(), initramfs]));
    let image = Image {
        id: id(&initramfs_hash.0),
        base_id: id(&rest.0),
        kernel: KERNEL.into(),
        pvh: kernel.image.pvh,
        initramfs: INITRAMFS.into(),
        kernel_release: kernel.image.release.clone(),
        kernel_source: kernel.source.clone(),
        modules: kernel.modules.names(),
        programs: content.programs,
        missing: content.missing,
        kernel_bytes: kernel_hash.1,
        initramfs_bytes: initramfs_hash.1,
        built: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed()),
    };
    let manifest = beside.path().join(MANIFEST);
    let text = serde_json::to_vec_pretty(&image).map_err(|error| ImageError::file("write", &manifest)(error.into()))?;
    fs::write(&manifest, text).map_err(ImageError::file("write", &manifest))?;
    if let Ok(same) = open(cache, &image.id) {
        return Ok(same);
    }
    let place = images.join(&image.id);
    if place.exists() {
        // Damaged, or it would have been opened.
        fs::remove_dir_all(&place).map_err(ImageError::file("remove", &place))?;
    }
    super::put_in_place(beside, &place)?;
    open(cache, &image.id)
}

/// Writes a file; returns hash and size of what was written.
fn write_hashed(
    path: &Path,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<(String, u64), ImageError> {
    let run = || {
        let mut out = Hashed::new(io::BufWriter::with_capacity(1 << 20, File::create(path)?));
        write(&mut out)?;
        out.finish()
    };
    run().map_err(ImageError::file("write", path))
}

/// The image with exactly this id.
///
/// Its files are as long as when they were written; reading them all would take longer than a guest takes to boot.
fn open(cache: &Path, id: &str) -> Result<Image, ImageError> {
    let directory = cache.join("images").join(id);
    let damaged = |text: String| ImageError::Damaged { id: id.to_owned(), text };
    let manifest = directory.join(MANIFEST);
    let text = fs::read(&manifest).map_err(ImageError::file("read", &manifest))?;
    let mut image: Image = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    image.kernel = directory.join(KERNEL);
    image.initramfs = directory.join(INITRAMFS);
    for (path, bytes) in [(&image.kernel, image.kernel_bytes), (&image.initramfs, image.initramfs_bytes)] {
        let found = fs::metadata(path).map_err(ImageError::file("read", path))?.len();
        if found != bytes {
            return Err(damaged(format!("{} has {found} bytes instead of {bytes}", path.display())));
        }
    }
    Ok(image)
}

pub(super) fn list(cache: &Path) -> Result<Vec<Image>, ImageError> {
    let mut images = Vec::new();
    for id in ids(cache)? {
        match open(cache, &id) {
            Ok(image) => images.push(image),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    images.sort_by(|a, b| (b.built, &a.id).cmp(&(a.built, &b.id)));
    Ok(images)
}

/// Names in `images`, without those that are being written.
fn ids(cache: &Path) -> Result<Vec<String>, ImageError> {
    let images = cache.join("images");
    let entries = match fs::read_dir(&images) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ImageError::file("read", &images)(error)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<io::Result<_>>().map_err(ImageError::file("read", &images))?;
    Ok(names.into_iter().filter(|name| !name.starts_with('.')).collect())
}

pub(super) fn remove(cache: &Path, id: &str) -> Result<u64, ImageError> {
    let refused = |text: String| ImageError::Id { id: id.to_owned(), text };
    let mut found: Vec<_> = ids(cache)?.into_iter().filter(|name| !id.is_empty() && name.starts_with(id)).collect();
    let Some(name) = found.pop() else { return Err(refused("no such image".to_owned())) };
    if !found.is_empty() {
        return Err(refused(format!("it could be {name} or {}", found.join(" or "))));
    }
    let place = cache.join("images").join(name);
    let failed = || ImageError::file("remove", &place);
    let mut bytes = 0;
    for entry in fs::read_dir(&place).map_err(failed())? {
        bytes += entry.and_then(|entry| entry.metadata()).map_err(failed())?.len();
    }
    // Out of sight first: what is removed halfway must not look like an image.
    let aside = super::beside(&cache.join("images"))?;
    fs::rename(&place, aside.path().join("removed")).map_err(failed())?;
    aside.close().map_err(failed())?;
    Ok(bytes)
}
