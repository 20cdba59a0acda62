//! Roots of containers: what guests' images have besides a kernel and its modules, as a directory.
//!
//! `roots/ID/fs` is the directory and `roots/ID/manifest.json` says what is in it; both are whole or absent. Containers start
//! from it with an overlay, so that nothing is ever written to it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::{Memo, lock, remember, remove_halves, short};
use super::content::{Content, content};
use super::hashed::{Hashed, of_parts};
use super::stop::Stop;
use super::watch::Watch;
use super::{ImageError, KernelChoice, Request, Step, VPTEST};

/// Directory of the roots in the cache.
pub(super) const ROOTS: &str = "roots";
/// Goes up whenever the same inputs give another directory.
const FORMAT: u32 = 2;
const MANIFEST: &str = "manifest.json";
const FILES: &str = "fs";

/// A finished root in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Hash of all that is in it: 16 hexadecimal digits.
    pub id: String,
    /// The same without vptest itself: equal for roots that differ only in the version of vptest.
    pub base_id: String,
    /// The directory.
    #[serde(skip)]
    pub path: PathBuf,
    /// Programs in it, by the path they have in the container.
    pub programs: Vec<String>,
    /// Usual programs that are not in it because this host lacks them.
    pub missing: Vec<String>,
    /// Bytes of each file by its path, none for links and directories.
    sizes: BTreeMap<String, u64>,
}

/// Makes a root, or finds it in the cache; it ends when `stop` is used, and leaves nothing then. Blocks. Two builds at once are
/// safe. Which kernel the request names makes no difference.
///
/// # Errors
///
/// Those of [`super::build_until`].
pub fn build_root_until(
    request: &Request,
    stop: &Stop,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<Root, ImageError> {
    super::stop::until(stop, || build(request, progress))
}

fn build(request: &Request, progress: &mut dyn FnMut(Step<'_>)) -> Result<Root, ImageError> {
    let request = Request { kernel: KernelChoice::Full, ..request.clone() };
    let (cache, memo) = (&request.cache, memo_path(&request));
    if let Some(root) = remembered(cache, &memo) {
        return Ok(root);
    }
    fs::create_dir_all(cache).map_err(ImageError::file("make", cache))?;
    let _lock = lock(cache, progress)?;
    // Another one may have built it while this one waited.
    if let Some(root) = remembered(cache, &memo) {
        return Ok(root);
    }
    remove_halves(cache);
    progress(Step::Assemble);
    let mut watch = Watch::default();
    let content = content(&request, None, &mut watch)?;
    super::stop::check()?;
    let root = store(cache, content)?;
    remember(&memo, &Memo { id: root.id.clone(), watch })?;
    Ok(root)
}

fn memo_path(request: &Request) -> PathBuf {
    let directory = std::env::current_dir().unwrap_or_default();
    let what = format!("root {FORMAT} {:?} {:?}", request.programs, request.vptest);
    let place = format!("{:?} {directory:?}", std::env::var_os("PATH"));
    request.cache.join("memo").join(short(&of_parts([what.as_str(), &place, env!("CARGO_PKG_VERSION")])) + ".json")
}

fn remembered(cache: &Path, memo: &Path) -> Option<Root> {
    let memo: Memo = serde_json::from_slice(&fs::read(memo).ok()?).ok()?;
    // A damaged root is made again.
    memo.watch.is_unchanged().then(|| open(cache, &memo.id).ok())?
}

/// Makes the root beside its place and moves it there.
fn store(cache: &Path, content: Content) -> Result<Root, ImageError> {
    let roots = cache.join(ROOTS);
    fs::create_dir_all(&roots).map_err(ImageError::file("make", &roots))?;
    let failed = || ImageError::file("write", &roots);
    let beside = super::beside(&roots)?;
    let mut tree = content.tree;
    let files = beside.path().join(FILES);
    fs::create_dir(&files).map_err(failed())?;
    let sizes = tree.unpack(&files).map_err(failed())?;
    let id = hash(&tree).map_err(failed())?;
    tree.remove(VPTEST);
    let base_id = hash(&tree).map_err(failed())?;
    let root = Root { id, base_id, path: PathBuf::new(), programs: content.programs, missing: content.missing, sizes };
    let text = serde_json::to_vec_pretty(&root).map_err(|error| failed()(error.into()))?;
    fs::write(beside.path().join(MANIFEST), text).map_err(failed())?;
    if let Ok(same) = open(cache, &root.id) {
        return Ok(same);
    }
    let place = roots.join(&root.id);
    if place.exists() {
        // Damaged, or it would have been opened.
        fs::remove_dir_all(&place).map_err(ImageError::file("remove", &place))?;
    }
    super::put_in_place(beside, &place)?;
    open(cache, &root.id)
}

fn hash(tree: &super::archive::Tree) -> io::Result<String> {
    let mut sum = Hashed::new(io::sink());
    tree.write(&mut sum)?;
    Ok(short(&sum.finish()?.0))
}

/// The root with exactly this id. Its files are as long as when they were written.
fn open(cache: &Path, id: &str) -> Result<Root, ImageError> {
    let directory = cache.join(ROOTS).join(id);
    let damaged = |text: String| ImageError::Damaged { id: id.to_owned(), text };
    let manifest = directory.join(MANIFEST);
    let text = fs::read(&manifest).map_err(ImageError::file("read", &manifest))?;
    let mut root: Root = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    root.path = std::path::absolute(directory.join(FILES)).map_err(ImageError::file("find", &directory))?;
    for (path, bytes) in &root.sizes {
        let at = root.path.join(path);
        let found = fs::symlink_metadata(&at).map_err(ImageError::file("read", &at))?;
        let size = if found.is_file() { found.len() } else { 0 };
        if size != *bytes {
            return Err(damaged(format!("{} has {size} bytes instead of {bytes}", at.display())));
        }
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cache: &Path) -> Request {
        let vptest = std::env::current_exe().unwrap();
        Request { kernel: KernelChoice::Full, programs: Vec::new(), vptest, cache: cache.to_owned() }
    }

    #[test]
    fn a_root_is_made_once_and_made_again_when_it_is_damaged() {
        let cache = tempfile::tempdir().unwrap();
        let make = || build_root_until(&request(cache.path()), &Stop::default(), &mut |_| {}).unwrap();
        let root = make();
        assert_eq!(root.path, cache.path().join(ROOTS).join(&root.id).join(FILES));
        assert!(root.path.join(VPTEST).is_file() && root.path.join("proc").is_dir());
        assert!(!root.path.join("lib/modules").exists(), "it has the host's kernel");
        assert_ne!(root.id, root.base_id);
        let written = || fs::metadata(root.path.join("etc/passwd")).unwrap();
        let first = std::os::unix::fs::MetadataExt::ino(&written());
        assert_eq!(make(), root);
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&written()), first, "it was made a second time");
        fs::write(root.path.join("etc/passwd"), "").unwrap();
        assert_eq!(make(), root);
        assert!(written().len() > 0);
        let left: Vec<_> = fs::read_dir(cache.path().join(ROOTS)).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, [root.id.as_str()], "halves");
    }
}
