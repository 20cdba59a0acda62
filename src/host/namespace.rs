//! Network namespaces without a name: they live as long as a descriptor or a process holds them, so that nothing stays
//! behind, however vptest ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, held by a descriptor.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// Makes a new, empty namespace (its loopback interface is down).
    pub fn new() -> io::Result<Self> {
        in_thread(Self::unshare)
    }

    /// The one that a process of this host is in.
    ///
    /// # Errors
    /// When the process has ended, or is not to be looked at.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        Ok(Self { fd: File::open(format!("/proc/{pid}/ns/net"))?.into() })
    }

    /// Makes one new namespace for each of `items` and runs `within` inside it, as [`Namespace::run`] would. One thread
    /// does it all, since starting one costs as much as half of what is usually done in there.
    pub fn create_each<I: Sync, T: Send>(
        items: &[I],
        mut within: impl FnMut(&I) -> io::Result<T> + Send,
    ) -> io::Result<Vec<(Self, T)>> {
        in_thread(move || items.iter().map(|item| Ok((Self::unshare()?, within(item)?))).collect())
    }

    /// Runs `work` on a thread inside the namespace and returns its result.
    ///
    /// Sockets opened there stay in the namespace; `/proc/thread-self/net` and `/proc/sys/net` show it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        in_thread(|| {
            setns(&self.fd, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// Moves this very thread into a new namespace.
    fn unshare() -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(Self { fd: File::open("/proc/thread-self/ns/net")?.into() })
    }
}

impl Namespace {
    /// Its inode, which identifies it among all of this kernel.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn inode(&self) -> io::Result<u64> {
        Ok(nix::sys::stat::fstat(&self.fd)?.st_ino)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A thread of its own, since changing the namespace changes the whole thread for good.
fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("vptest-netns".to_owned())
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
