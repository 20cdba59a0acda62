//! A cage for the processes of one iteration: they cannot outlive vptest, however it ends.
//!
//! The cage is a PID namespace. Its first process does nothing but hold the namespace open; when it ends, the kernel
//! kills every other process in there, those that changed their session, their group or their parent included. It
//! ends when the cage is closed, when vptest dies (it sees the end of a pipe, and asks for a signal as well), and in
//! no other case. So `kill -9` of vptest leaves no process behind and nothing has to be found again later.
//!
//! The PID namespace of future children and the network namespace and affinity a child begins with are properties of a
//! *thread*, so a cage has a thread of its own that starts every process. It takes on all of them before it starts one,
//! so that nothing is left to be done between `fork` and `exec` and the child can be made without a copy of vptest's
//! page tables (`posix_spawn`). That copy takes long while captures run, whose rings are mapped memory.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns, unshare};
use nix::unistd::{AccessFlags, ForkResult, Pid, eaccess};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::child::{Child, Reaper, Started, pidfd_open};
use super::namespace::Namespace;
use crate::node::Command;

/// Name of the threads that start processes.
pub const THREAD: &str = "vptest-cage";

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

/// See the module. Dropping it kills everything inside without waiting for the end, which a process that the kernel
/// does not let go could put off for ever; [`Cage::close`] waits.
#[derive(Debug)]
pub struct Cage {
    requests: Option<mpsc::Sender<Message>>,
    /// The namespace's first process; `None` for process groups.
    init: Option<Arc<Init>>,
    thread: Option<std::thread::JoinHandle<()>>,
    kind: Kind,
    starter: i32,
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

/// What a process reads.
#[derive(Debug, Clone, Copy)]
enum Input {
    Nothing,
    Pipe,
}

enum Message {
    Spawn(Box<Job>, Input, oneshot::Sender<io::Result<Started>>),
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

    /// Number of the thread that starts every process inside, in vptest's own PID namespace.
    pub fn starter(&self) -> i32 {
        self.starter
    }

    /// Device (as stat(2) gives it) and inode of the PID namespace; `None` for process groups, and where the namespace's
    /// first process is gone.
    pub fn pid_namespace(&self) -> Option<(u64, u64)> {
        use std::os::linux::fs::MetadataExt as _;
        let meta = std::fs::metadata(format!("/proc/{}/ns/pid", self.init.as_ref()?.pid)).ok()?;
        Some((meta.st_dev(), meta.st_ino()))
    }

    /// Starts a process inside.
    ///
    /// # Errors
    /// What `execve` says (`NotFound`: no such program), `EINVAL` when none of the CPUs exists, `EPERM` when the network
    /// namespace cannot be entered; nothing was started then.
    pub async fn spawn(&self, job: Job) -> io::Result<Child> {
        Child::new(self.begin(job, Input::Nothing).await?)
    }

    /// As [`Cage::spawn`], but its standard output and error are the caller's to read: the process waits where it does not.
    ///
    /// # Errors
    /// As [`Cage::spawn`].
    pub async fn spawn_piped(&self, job: Job) -> io::Result<(Child, pipe::Receiver, pipe::Receiver)> {
        Child::piped(self.begin(job, Input::Nothing).await?)
    }

    /// As [`Cage::spawn`], but what it reads and its standard output are the caller's: the process waits where it does not
    /// read. Dropping the first end is the end of its input.
    ///
    /// # Errors
    /// As [`Cage::spawn`].
    pub async fn converse(&self, job: Job) -> io::Result<(Child, pipe::Sender, pipe::Receiver)> {
        Child::conversing(self.begin(job, Input::Pipe).await?)
    }

    async fn begin(&self, job: Job, input: Input) -> io::Result<Started> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Spawn(Box::new(job), input, reply))?;
        answer.await.map_err(|_| io::Error::other("the thread that starts processes is gone"))?
    }

    /// Kills everything inside, processes that are just being started included, and waits until it is gone. Idempotent.
    ///
    /// # Errors
    /// When a process cannot be waited for.
    pub async fn close(&mut self) -> io::Result<()> {
        self.kill();
        let (reply, answer) = oneshot::channel();
        let result = match self.send(Message::Close(reply)) {
            // No answer: an earlier call, given up half-way, had asked for the same.
            Ok(()) => answer.await.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        };
        self.requests = None;
        result.and(self.join())
    }

    fn open_as(kind: Kind) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        let (ready, opened) = mpsc::channel();
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || match Warden::new(kind) {
            Ok(warden) => {
                // The other side waits for exactly this message.
                let starter = nix::unistd::gettid().as_raw();
                let _ = ready.send(Ok((warden.init.as_ref().map(Arc::clone), starter)));
                warden.serve(&inbox);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        })?;
        let opened = opened.recv().unwrap_or_else(|_| Err(io::Error::other("the cage's thread ended early")));
        let (init, starter) = opened?;
        Ok(Self { requests: Some(requests), init, thread: Some(thread), kind, starter })
    }

    /// Not left to the thread, which is not free while a process is being started.
    fn kill(&self) {
        if let Some(init) = &self.init {
            init.kill();
        }
    }

    fn send(&self, message: Message) -> io::Result<()> {
        let closed = || io::Error::other("the cage is closed");
        self.requests.as_ref().ok_or_else(closed)?.send(message).map_err(|_| closed())
    }

    fn join(&mut self) -> io::Result<()> {
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Err(_)) => Err(io::Error::other("the thread that starts processes panicked")),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

/// The thread is left to itself: it sees the closed channel, waits for what was killed and ends.
impl Drop for Cage {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The thread's side: the namespace's first process and everything started since.
struct Warden {
    init: Option<Arc<Init>>,
    children: BTreeMap<i32, Arc<Reaper>>,
    /// Affinity of the thread before any job changed it.
    own_cpus: CpuSet,
    /// Network namespace of the thread before any job changed it.
    own_net: File,
    /// A job may have taken the thread out of it.
    away: bool,
}

impl Warden {
    fn new(kind: Kind) -> io::Result<Self> {
        let own_cpus = sched_getaffinity(Pid::from_raw(0))?;
        let own_net = File::open("/proc/thread-self/ns/net")?;
        let init = match kind {
            Kind::Namespace => Some(Arc::new(Init::start()?)),
            Kind::Groups => None,
        };
        Ok(Self { init, children: BTreeMap::new(), own_cpus, own_net, away: false })
    }

    fn serve(mut self, inbox: &mpsc::Receiver<Message>) {
        while let Ok(message) = inbox.recv() {
            match message {
                Message::Spawn(job, input, reply) => {
                    // A process that nobody waits for any more is killed with the reply; the cage's end reaps it.
                    let _ = reply.send(self.start(&job, input));
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

    /// All that can fail comes before the process exists, except for what [`Started::new`] does.
    fn start(&mut self, job: &Job, input: Input) -> io::Result<Started> {
        self.children.retain(|_, child| !child.is_reaped());
        match &job.command.cpus {
            Some(cpus) => sched_setaffinity(Pid::from_raw(0), &cpu_set(cpus)?)?,
            None => sched_setaffinity(Pid::from_raw(0), &self.own_cpus)?,
        }
        self.enter(job.namespace.as_deref())?;
        let begun = Instant::now();
        let child = self.exec(job, input)?;
        let started = Started::new(child, begun)?;
        // Before anything else can fail: a child that is not known here would never be reaped, and the kernel does not
        // let the namespace's first process go before it.
        self.children.insert(started.reaper.pid(), started.reaper.share());
        Ok(started)
    }

    /// Moves the thread to where the next process is to begin. It stays there until a job wants another place, so a
    /// thread that cannot go back starts nothing in a wrong one: every job that belongs there fails.
    fn enter(&mut self, namespace: Option<&Namespace>) -> io::Result<()> {
        match namespace {
            Some(namespace) => {
                self.away = true;
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
            }
            None if self.away => {
                setns(&self.own_net, CloneFlags::CLONE_NEWNET)?;
                self.away = false;
            }
            None => {}
        }
        Ok(())
    }

    fn exec(&self, job: &Job, input: Input) -> io::Result<std::process::Child> {
        let (program, arguments) = job.command.argv.split_first().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "an empty argument vector names no program to start")
        })?;
        let directory = job.command.directory.as_ref().map_or(job.directory.as_path(), Path::new);
        let path = job.command.env.iter().rfind(|(name, _)| name == "PATH");
        let path = path.map_or_else(search_path, |(_, value)| OsString::from(value));
        let file = find_program(program, &path, directory)?;
        match self.command(job, input, &file, directory, &path).arg0(program).args(arguments).spawn() {
            // A script that names no interpreter, which execvp(3) gives to the shell; posix_spawn(3) does not.
            Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
                self.command(job, input, Path::new("/bin/sh"), directory, &path).arg(file).args(arguments).spawn()
            }
            other => other,
        }
    }

    fn command(&self, job: &Job, input: Input, file: &Path, directory: &Path, path: &OsStr) -> std::process::Command {
        let mut command = std::process::Command::new(file);
        command
            .env("LC_ALL", "C")
            .envs(job.command.env.iter().map(|(name, value)| (name, value)))
            .env("PATH", path)
            .current_dir(directory)
            .stdin(match input {
                Input::Nothing => Stdio::null(),
                Input::Pipe => Stdio::piped(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if self.init.is_none() {
            die_with_parent(&mut command);
        }
        command
    }

    /// Direct children first: the kernel lets the namespace's first process go only when nobody is left in there, and a
    /// child that nobody waited for still counts.
    fn kill_all(&mut self) -> io::Result<()> {
        if let Some(init) = &self.init {
            init.kill();
        }
        let mut result = Ok(());
        // All are killed before one is waited for that may take long.
        for child in self.children.values() {
            result = result.and(child.signal(libc::SIGKILL));
        }
        for (_, child) in std::mem::take(&mut self.children) {
            result = result.and(child.wait());
        }
        match self.init.take() {
            Some(init) => result.and(init.wait()),
            None => result,
        }
    }
}

/// The first process of a PID namespace.
#[derive(Debug)]
struct Init {
    pid: Pid,
    /// Unlike the number, it never means another process.
    pidfd: OwnedFd,
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
            ForkResult::Parent { child } => match pidfd_open(child.as_raw()) {
                Ok(pidfd) => Ok(Self { pid: child, pidfd, _lifeline: lifeline }),
                Err(error) => {
                    // Nobody else waits for it, so the number is still its own.
                    let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
                    wait(child)?;
                    Err(error)
                }
            },
        }
    }

    /// Does nothing when it is gone already, which is what is wanted.
    #[expect(unsafe_code, reason = "pidfd_send_signal has no wrapper in nix")]
    fn kill(&self) {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open as long as `self`; a null pointer asks the kernel to fill in the information.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), libc::SIGKILL, no_info, 0) };
    }

    fn wait(&self) -> io::Result<()> {
        wait(self.pid)
    }
}

fn wait(pid: Pid) -> io::Result<()> {
    loop {
        match nix::sys::wait::waitpid(pid, None) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
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

/// `PATH` with the directories of servers, which an ordinary user's often lacks.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// The file that execvp(3) would run in `directory`. The standard library leaves the search to the child when `PATH` is
/// changed, and then forks.
fn find_program(program: &str, path: &OsStr, directory: &Path) -> io::Result<PathBuf> {
    if program.is_empty() || program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    let mut error = libc::ENOENT;
    for entry in std::env::split_paths(path) {
        // A relative or empty entry starts where the program will.
        let file = directory.join(entry).join(program);
        match file.metadata() {
            Ok(found) if found.is_file() && eaccess(&file, AccessFlags::X_OK).is_ok() => return Ok(file),
            Ok(_) => error = libc::EACCES,
            Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => error = libc::EACCES,
            Err(_) => {}
        }
    }
    Err(io::Error::from_raw_os_error(error))
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
