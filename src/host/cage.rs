//! A cage for the processes of one iteration: they cannot outlive vptest, however it ends.
//!
//! The cage is a PID namespace. Its first process does nothing but hold the namespace open; when it ends, the kernel
//! kills every other process in there, those that changed their session, their group or their parent included. It
//! ends when the cage is closed, when vptest dies (it sees the end of a pipe, and asks for a signal as well), and in
//! no other case. So `kill -9` of vptest leaves no process behind and nothing has to be found again later.
//!
//! The PID namespace of future children and the affinity a child begins with are properties of a *thread*, so a cage has
//! a thread of its own that starts every process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid};
use tokio::sync::oneshot;

use super::child::{Child, Reaper, Started};
use super::namespace::Namespace;
use crate::node::Command;

/// Something to start in a cage.
#[derive(Debug, Clone)]
pub struct Job {
    /// Arguments, environment, CPUs. A directory in it wins over `directory`.
    pub command: Command,
    /// Working directory.
    pub directory: PathBuf,
    /// Network namespace; `None` for the one vptest is in.
    pub namespace: Option<Arc<Namespace>>,
}

/// See the module. Dropping it kills everything inside and waits for that.
#[derive(Debug)]
pub struct Cage {
    requests: Option<mpsc::Sender<Message>>,
    thread: Option<std::thread::JoinHandle<()>>,
    kind: Kind,
}

/// What keeps the processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A PID namespace.
    Namespace,
    /// Only process groups and a parent-death signal: a process that starts a session of its own can escape. Used where
    /// PID namespaces are refused (no privileges and no user namespaces).
    Groups,
}

impl Kind {
    /// For the environment table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "pid namespace",
            Self::Groups => "process groups",
        }
    }
}

enum Message {
    Spawn(Box<Job>, oneshot::Sender<io::Result<Started>>),
    Close(oneshot::Sender<io::Result<()>>),
}

impl Cage {
    /// Opens a cage in a PID namespace.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` in the current user namespace, `ENOSPC` beyond `user.max_pid_namespaces`.
    pub fn open() -> io::Result<Self> {
        Self::open_as(Kind::Namespace)
    }

    /// Opens a cage in a PID namespace, or without one where that is refused; [`Cage::kind`] tells.
    ///
    /// # Errors
    /// Only when not even a thread can be started.
    pub fn open_or_groups() -> io::Result<Self> {
        match Self::open() {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSPC | libc::EINVAL)) => {
                Self::open_as(Kind::Groups)
            }
            other => other,
        }
    }

    /// What holds it together.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Starts a process inside.
    ///
    /// # Errors
    /// What `execve` says (`NotFound`: no such program), `EINVAL` when none of the CPUs exists.
    pub async fn spawn(&self, job: Job) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Spawn(Box::new(job), reply))?;
        let started = answer.await.map_err(|_| io::Error::other("the thread that starts processes is gone"))??;
        Child::new(started)
    }

    /// Kills everything inside and waits until it is gone. Idempotent.
    ///
    /// # Errors
    /// When a process cannot be waited for.
    pub async fn close(&mut self) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        if self.send(Message::Close(reply)).is_err() {
            return Ok(());
        }
        let result = answer.await.unwrap_or(Ok(()));
        self.requests = None;
        self.join();
        result
    }

    fn open_as(kind: Kind) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        let (ready, opened) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("vptest-cage".to_owned()).spawn(move || match Warden::new(kind) {
                Ok(warden) => {
                    // The other side waits for exactly this message.
                    let _ = ready.send(Ok(()));
                    warden.serve(&inbox);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })?;
        let mut cage = Self { requests: Some(requests), thread: Some(thread), kind };
        let result = opened.recv().unwrap_or_else(|_| Err(io::Error::other("the cage's thread ended early")));
        if result.is_err() {
            cage.join();
        }
        result.map(|()| cage)
    }

    fn send(&self, message: Message) -> io::Result<()> {
        let closed = || io::Error::other("the cage is closed");
        self.requests.as_ref().ok_or_else(closed)?.send(message).map_err(|_| closed())
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that starts processes panicked");
        }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        self.requests = None;
        self.join();
    }
}

/// The thread's side: the namespace's first process and everything started since.
struct Warden {
    init: Option<Init>,
    children: BTreeMap<i32, Arc<Reaper>>,
    /// Affinity of the thread before any job changed it.
    own_cpus: CpuSet,
}

impl Warden {
    fn new(kind: Kind) -> io::Result<Self> {
        let own_cpus = sched_getaffinity(Pid::from_raw(0))?;
        let init = match kind {
            Kind::Namespace => Some(Init::start()?),
            Kind::Groups => None,
        };
        Ok(Self { init, children: BTreeMap::new(), own_cpus })
    }

    fn serve(mut self, inbox: &mpsc::Receiver<Message>) {
        while let Ok(message) = inbox.recv() {
            match message {
                Message::Spawn(job, reply) => {
                    let started = self.start(&job);
                    if let Err(Ok(orphan)) = reply.send(started) {
                        // Nobody waits for it any more; the cage's end reaps it.
                        drop(orphan);
                    }
                }
                Message::Close(reply) => {
                    // A caller that went away does not need the answer.
                    let _ = reply.send(self.kill_all());
                    return;
                }
            }
        }
        if let Err(error) = self.kill_all() {
            tracing::error!("cannot end the processes of an iteration: {error}");
        }
    }

    fn start(&mut self, job: &Job) -> io::Result<Started> {
        self.children.retain(|_, child| !child.is_reaped());
        if let Some(cpus) = &job.command.cpus {
            sched_setaffinity(Pid::from_raw(0), &cpu_set(cpus)?)?;
        }
        let started = self.exec(job);
        if let Ok(started) = &started {
            // Before anything else can fail: a child that is not known here would never be reaped, and the kernel does
            // not let the namespace's first process go before it.
            self.children.insert(started.reaper.pid(), Arc::clone(&started.reaper));
        }
        if job.command.cpus.is_some() {
            sched_setaffinity(Pid::from_raw(0), &self.own_cpus)?;
        }
        started
    }

    fn exec(&self, job: &Job) -> io::Result<Started> {
        let (program, arguments) = job.command.argv.split_first().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "an empty argument vector names no program to start")
        })?;
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .env("LC_ALL", "C")
            .env("PATH", search_path())
            .envs(job.command.env.iter().map(|(name, value)| (name, value)))
            .current_dir(job.command.directory.as_ref().map_or_else(|| job.directory.clone(), PathBuf::from))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if self.init.is_none() {
            die_with_parent(&mut command);
        }
        if let Some(namespace) = &job.namespace {
            enter(&mut command, namespace);
        }
        let begun = Instant::now();
        let child = command.spawn()?;
        Started::new(child, begun)
    }

    /// Direct children first: the kernel lets the namespace's first process go only when nobody is left in there, and a
    /// child that nobody waited for still counts.
    fn kill_all(&mut self) -> io::Result<()> {
        if let Some(init) = &self.init {
            init.kill();
        }
        let mut result = Ok(());
        for (_, child) in std::mem::take(&mut self.children) {
            result = result.and(child.kill_and_wait());
        }
        match self.init.take() {
            Some(init) => result.and(init.wait()),
            None => result,
        }
    }
}

/// The first process of a PID namespace.
struct Init {
    pid: Pid,
    /// Its other end is all that the process reads: when vptest is gone, so is this.
    _lifeline: OwnedFd,
}

impl Init {
    #[expect(unsafe_code, reason = "fork without exec: the child runs only async-signal-safe calls")]
    fn start() -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWPID)?;
        let (reader, lifeline) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: the child calls nothing but `hold_namespace`, which allocates nothing, takes no lock and never returns.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Child => hold_namespace(reader.as_raw_fd()),
            ForkResult::Parent { child } => Ok(Self { pid: child, _lifeline: lifeline }),
        }
    }

    fn kill(&self) {
        // It can only be gone already, which is what is wanted.
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    fn wait(self) -> io::Result<()> {
        loop {
            match nix::sys::wait::waitpid(self.pid, None) {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The whole life of the namespace's first process: let the kernel reap orphans, keep no descriptor of vptest's, wait
/// for the end of the pipe.
#[expect(unsafe_code, reason = "raw system calls: this runs between fork and _exit")]
fn hold_namespace(lifeline: i32) -> ! {
    const KEPT: i32 = 0;
    // SAFETY: plain system calls on values owned by this process, all async-signal-safe; `byte` outlives the read.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NAME, c"vptest-cage".as_ptr());
        libc::dup2(lifeline, KEPT);
        libc::syscall(libc::SYS_close_range, 1_u32, u32::MAX, 0_u32);
        let mut byte = 0_u8;
        while libc::read(KEPT, std::ptr::from_mut(&mut byte).cast(), 1) != 0 {
            // A signal that interrupts the read is no reason to go; nothing is ever written.
        }
        libc::_exit(0)
    }
}

/// Without a namespace, the child itself must ask to be killed when its parent goes.
#[expect(unsafe_code, reason = "pre_exec: runs between fork and exec")]
fn die_with_parent(command: &mut std::process::Command) {
    // SAFETY: the closure makes one async-signal-safe system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
}

/// The child enters the network namespace itself: this thread could not come back to the one it is in when that belongs
/// to another user namespace, which is so without root.
#[expect(unsafe_code, reason = "pre_exec: runs between fork and exec")]
fn enter(command: &mut std::process::Command, namespace: &Arc<Namespace>) {
    let namespace = Arc::clone(namespace);
    // SAFETY: the closure makes one async-signal-safe system call and allocates nothing; it owns the descriptor's holder.
    unsafe {
        command.pre_exec(move || Ok(setns(namespace.as_ref(), CloneFlags::CLONE_NEWNET)?));
    }
}

/// `PATH` with the directories of servers, which an ordinary user's often lacks.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

fn cpu_set(cpus: &[usize]) -> io::Result<CpuSet> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    Ok(set)
}

/// The lock's content, also when another thread panicked while it held it: the values here are valid at every moment.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
