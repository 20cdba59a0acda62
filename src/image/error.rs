//! What can go wrong while an image is made.

use std::io;
use std::path::{Path, PathBuf};

use super::packages;

/// Why there is no image.
///
/// [`ImageError::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It was told to end.
    #[error("the build of the image was stopped")]
    Stopped,
    /// There is no place for the cache.
    #[error("no cache directory: neither VPTEST_CACHE, XDG_CACHE_HOME nor HOME is set")]
    NoCache,
    /// A file cannot be read, written, made or removed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program of the host's package management is not there or failed.
    #[error("`{command}` failed: {text}")]
    Tool {
        /// The command as it was run.
        command: String,
        /// What it said, or why it did not start.
        text: String,
    },
    /// The host is no Debian or Ubuntu, or its package lists have no such package.
    #[error("no kernel package {} in the package lists of this host", names.join(" or "))]
    NoKernelPackage {
        /// The packages asked for.
        names: Vec<String>,
    },
    /// A downloaded package is not what the package lists announce.
    #[error("package {} is damaged: {text}", path.display())]
    Package {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// A kernel image is not one that can be booted.
    #[error("{} is no x86-64 Linux kernel: {text}", path.display())]
    Kernel {
        /// The file, or the package it came from.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// A kernel module that no guest works without is missing, or cannot be read.
    #[error("kernel {release}: module {module}: {text}")]
    Module {
        /// Release of the kernel.
        release: String,
        /// Name of the module.
        module: String,
        /// What is wrong with it.
        text: String,
    },
    /// A program asked for is not on this host.
    #[error("program `{program}` is not on this host")]
    NoProgram {
        /// As asked for.
        program: String,
    },
    /// A program cannot run in a guest of this kind.
    #[error("program {} cannot go into an image: {text}", path.display())]
    Program {
        /// Its file.
        path: PathBuf,
        /// Why not.
        text: String,
    },
    /// A shared library that a program needs is not on this host.
    #[error("{} needs the shared library {library}, which is not on this host", needed_by.display())]
    NoLibrary {
        /// The library's name, as the program has it.
        library: String,
        /// Who needs it.
        needed_by: PathBuf,
    },
    /// No image has this id, or more than one begins with it.
    #[error("image `{id}`: {text}")]
    Id {
        /// As asked for.
        id: String,
        /// `no such image`, or which ones it could be.
        text: String,
    },
    /// An image in the cache is not what it was when it was made.
    #[error("image {id} in the cache is damaged: {text}")]
    Damaged {
        /// Its id.
        id: String,
        /// What is wrong with it.
        text: String,
    },
}

impl ImageError {
    /// What to do about it; `None` where the message says it all.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoCache => Some("set VPTEST_CACHE to a directory with 500 MB of free space".to_owned()),
            Self::NoKernelPackage { .. } => Some(
                "run `apt-get update` as root for fresh package lists, or name a kernel: --kernel PATH --modules DIR"
                    .to_owned(),
            ),
            Self::Tool { .. } => Some(
                "kernels come from the packages of Debian and Ubuntu (`apt-get update` as root refreshes the lists); \
                 elsewhere name one: --kernel PATH --modules DIR"
                    .to_owned(),
            ),
            Self::NoProgram { program } => Some(match packages::package_of(program) {
                Some(package) => format!("apt-get install {package}"),
                None => "install it, or give the path of the file".to_owned(),
            }),
            Self::Package { path, .. } => Some(format!("remove {} and build again", path.display())),
            Self::Damaged { id, .. } => Some(format!("vptest image remove {id}")),
            _ => None,
        }
    }

    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
