//! One started process: its outputs, its end, and what it used.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd as _, AsRawFd, FromRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::cage::locked;
use crate::node::{Exit, ExitStatus, NodeIoError, OUTPUT_LIMIT, Output, Process, Stream};

/// How long outputs may stay open after the process has ended (a child of its own may hold them).
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// A process as the thread that started it hands it over.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) reaper: Held,
    /// `None` for a process that reads nothing.
    input: Option<OwnedFd>,
    out: OwnedFd,
    err: OwnedFd,
}

impl Started {
    pub(super) fn new(mut child: std::process::Child, begun: Instant) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let pidfd = match pidfd_open(pid) {
            Ok(pidfd) => Arc::new(pidfd),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
        };
        let reaper = Held(Arc::new(Reaper { pid, pidfd, begun, end: Mutex::new(None) }));
        let input = child.stdin.take().map(OwnedFd::from);
        let pipes = child.stdout.take().zip(child.stderr.take());
        let (out, err) = pipes.ok_or_else(|| io::Error::other("the process was started without its pipes"))?;
        // Dropping a `std::process::Child` neither kills nor waits: from here on the reaper does.
        drop(child);
        Ok(Self { reaper, input, out: out.into(), err: err.into() })
    }
}

/// Its process is wanted as long as this is held, and killed with it; its cage reaps it.
#[derive(Debug)]
pub(super) struct Held(Arc<Reaper>);

impl Held {
    /// For the one who reaps it.
    pub(super) fn share(&self) -> Arc<Reaper> {
        Arc::clone(&self.0)
    }
}

impl Deref for Held {
    type Target = Reaper;

    fn deref(&self) -> &Reaper {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.signal(libc::SIGKILL) {
            tracing::warn!("cannot kill process {}: {error}", self.pid);
        }
    }
}

/// Knows how a process ended, or finds it out. Shared by the one who waits and by the cage.
#[derive(Debug)]
pub(super) struct Reaper {
    pid: i32,
    /// Readable when the process has ended.
    pidfd: Arc<OwnedFd>,
    begun: Instant,
    end: Mutex<Option<Exit>>,
}

impl Reaper {
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn is_reaped(&self) -> bool {
        locked(&self.end).is_some()
    }

    /// Waits for the end. Nothing is locked meanwhile: whoever signals the process must not wait for it.
    pub(super) fn wait(&self) -> io::Result<()> {
        while self.try_reap()?.is_none() {
            let mut ended = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ended, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn try_reap(&self) -> io::Result<Option<Exit>> {
        let mut end = locked(&self.end);
        if end.is_none() {
            *end = self.wait4(libc::WNOHANG)?;
        }
        Ok(*end)
    }

    /// A process that nobody has waited for keeps its number, so the signal cannot hit another one.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        let end = locked(&self.end);
        if end.is_some() { Ok(()) } else { signal_group(self.pid, signal) }
    }

    #[expect(unsafe_code, reason = "wait4 is the only call that returns the resources used by one child")]
    fn wait4(&self, flags: i32) -> io::Result<Option<Exit>> {
        loop {
            let mut status = 0;
            // SAFETY: `rusage` is plain numbers, for which all zeroes is a valid value.
            let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
            // SAFETY: both pointers are to live, properly aligned locals.
            let pid = unsafe { libc::wait4(self.pid, &raw mut status, flags, &raw mut usage) };
            if pid == 0 {
                return Ok(None);
            }
            if pid == self.pid {
                return Ok(Some(self.exit(status, &usage)));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn exit(&self, status: i32, usage: &libc::rusage) -> Exit {
        let status = if libc::WIFSIGNALED(status) {
            ExitStatus::Signal(libc::WTERMSIG(status))
        } else {
            ExitStatus::Code(libc::WEXITSTATUS(status))
        };
        Exit {
            status,
            wall: self.begun.elapsed(),
            cpu_user: duration(usage.ru_utime),
            cpu_system: duration(usage.ru_stime),
        }
    }
}

/// A process in a cage.
#[derive(Debug)]
pub struct Child {
    reaper: Held,
    ended: AsyncFd<Arc<OwnedFd>>,
    out: Arc<Mutex<Output>>,
    err: Arc<Mutex<Output>>,
    readers: Vec<JoinHandle<()>>,
}

impl Child {
    pub(super) fn new(started: Started) -> io::Result<Self> {
        let (out, out_reader) = collect(started.out)?;
        let (err, err_reader) = collect(started.err)?;
        let ended = watch(Arc::clone(&started.reaper.pidfd))?;
        Ok(Self { reaper: started.reaper, ended, out, err, readers: vec![out_reader, err_reader] })
    }

    /// With its outputs, which then are not collected.
    pub(super) fn piped(started: Started) -> io::Result<(Self, pipe::Receiver, pipe::Receiver)> {
        let out = pipe::Receiver::from_owned_fd(started.out)?;
        let err = pipe::Receiver::from_owned_fd(started.err)?;
        let ended = watch(Arc::clone(&started.reaper.pidfd))?;
        let child =
            Self { reaper: started.reaper, ended, out: Arc::default(), err: Arc::default(), readers: Vec::new() };
        Ok((child, out, err))
    }

    /// With what it reads and its standard output, which then is not collected.
    pub(super) fn conversing(started: Started) -> io::Result<(Self, pipe::Sender, pipe::Receiver)> {
        let input = started.input.ok_or_else(|| io::Error::other("the process was started without an input"))?;
        let input = pipe::Sender::from_owned_fd(input)?;
        let out = pipe::Receiver::from_owned_fd(started.out)?;
        let (err, reader) = collect(started.err)?;
        let ended = watch(Arc::clone(&started.reaper.pidfd))?;
        let child = Self { reaper: started.reaper, ended, out: Arc::default(), err, readers: vec![reader] };
        Ok((child, input, out))
    }

    async fn end(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.reaper.try_reap()? {
                return Ok(exit);
            }
            self.ended.readable().await?.clear_ready();
        }
    }
}

#[async_trait]
impl Process for Child {
    fn pid(&self) -> Option<u32> {
        u32::try_from(self.reaper.pid).ok()
    }

    async fn wait(&mut self) -> Result<Exit, NodeIoError> {
        let exit = self.end().await.map_err(|source| NodeIoError::new("wait for a process", source))?;
        for reader in &mut self.readers {
            // A reader that ended before, or that a grandchild keeps waiting, has nothing more to say.
            if !reader.is_finished() {
                let _ = tokio::time::timeout(OUTPUT_GRACE, reader).await;
            }
        }
        Ok(exit)
    }

    fn output(&self, stream: Stream) -> Output {
        locked(match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        })
        .clone()
    }

    fn signal(&mut self, signal: i32) -> Result<(), NodeIoError> {
        self.reaper.signal(signal).map_err(|source| NodeIoError::new("signal a process", source))
    }

    fn affinity(&self) -> Option<Vec<usize>> {
        if self.reaper.is_reaped() {
            return None;
        }
        let set = sched_getaffinity(Pid::from_raw(self.reaper.pid)).ok()?;
        Some((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

type Collected = (Arc<Mutex<Output>>, JoinHandle<()>);

/// Reads a pipe to its end in the background.
fn collect(fd: OwnedFd) -> io::Result<Collected> {
    let mut pipe = pipe::Receiver::from_owned_fd(fd)?;
    let output = Arc::new(Mutex::new(Output::default()));
    let shared = Arc::clone(&output);
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match pipe.read(&mut buffer).await {
                Ok(0) => break,
                Ok(n) => append(&mut locked(&shared), &buffer[..n]),
                Err(error) => {
                    tracing::warn!("cannot read the output of a process: {error}");
                    locked(&shared).truncated = true;
                    break;
                }
            }
        }
    });
    Ok((output, reader))
}

fn append(output: &mut Output, bytes: &[u8]) {
    let room = OUTPUT_LIMIT - output.bytes.len();
    let kept = bytes.len().min(room);
    output.bytes.extend_from_slice(&bytes[..kept]);
    output.truncated |= kept < bytes.len();
}

fn duration(time: libc::timeval) -> Option<Duration> {
    Some(
        Duration::from_secs(u64::try_from(time.tv_sec).ok()?)
            + Duration::from_micros(u64::try_from(time.tv_usec).ok()?),
    )
}

/// Signals the process's whole group (every job leads one).
fn signal_group(pid: i32, signal: i32) -> io::Result<()> {
    let signal = nix::sys::signal::Signal::try_from(signal)?;
    match nix::sys::signal::killpg(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[expect(unsafe_code, reason = "tokio asks for the promise that the descriptor stays the same")]
fn watch(pidfd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: a shared `OwnedFd` returns the same descriptor all its life and closes it only when dropped.
    Ok(unsafe { AsyncFd::register(pidfd) }?)
}

#[expect(unsafe_code, reason = "pidfd_open has no wrapper in nix")]
pub(super) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a system call on two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just returned this descriptor (close-on-exec) and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    debug_assert!(fd.as_raw_fd() >= 0);
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::super::cage::{Cage, Job};
    use super::*;
    use crate::node::Command;

    fn job(argv: &[&str]) -> Job {
        let argv = argv.iter().map(|s| (*s).to_owned()).collect();
        Job { command: Command { argv, ..Command::default() }, directory: PathBuf::from("/"), namespace: None }
    }

    #[tokio::test]
    async fn output_status_and_cpu_time_come_back() {
        let cage = Cage::open_or_groups().unwrap();
        let mut child = cage.spawn(job(&["sh", "-c", "echo out; echo err >&2; exit 7"])).await.unwrap();
        let exit = child.wait().await.unwrap();
        assert_eq!(exit.status, ExitStatus::Code(7));
        assert_eq!(child.output(Stream::Out).bytes, b"out\n");
        assert_eq!(child.output(Stream::Err).bytes, b"err\n");
        assert!(exit.cpu_user.is_some() && exit.cpu_system.is_some());
        assert_eq!(child.wait().await.unwrap(), exit, "a second wait says the same");
    }

    #[tokio::test]
    async fn a_conversation_has_an_input_that_ends() {
        use tokio::io::AsyncWriteExt as _;
        let cage = Cage::open_or_groups().unwrap();
        let script = "read line; echo \"got $line\"; cat; echo end >&2";
        let (mut child, mut input, mut out) = cage.converse(job(&["sh", "-c", script])).await.unwrap();
        input.write_all(b"one\ntwo\n").await.unwrap();
        let mut text = [0; 8];
        out.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"got one\n");
        drop(input);
        let mut rest = Vec::new();
        out.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"two\n");
        assert!(child.wait().await.unwrap().status.success());
        assert_eq!(child.output(Stream::Err).bytes, b"end\n");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_not_found() {
        let cage = Cage::open_or_groups().unwrap();
        let error = cage.spawn(job(&["no-such-program-at-all"])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn signals_reach_the_process_and_its_children() {
        let cage = Cage::open_or_groups().unwrap();
        let mut child = cage.spawn(job(&["sh", "-c", "sleep 1000 & wait"])).await.unwrap();
        child.signal(libc::SIGTERM).unwrap();
        assert_eq!(child.wait().await.unwrap().status, ExitStatus::Signal(libc::SIGTERM));
    }

    #[tokio::test]
    async fn affinity_is_that_of_the_job_alone() {
        let cage = Cage::open_or_groups().unwrap();
        let mut pinned = job(&["sleep", "1000"]);
        pinned.command.cpus = Some(vec![0]);
        let pinned = cage.spawn(pinned).await.unwrap();
        let free = cage.spawn(job(&["sleep", "1000"])).await.unwrap();
        assert_eq!(pinned.affinity(), Some(vec![0]));
        let own = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let own: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| own.is_set(cpu).unwrap()).collect();
        assert_eq!(free.affinity(), Some(own));
    }

    #[tokio::test]
    async fn closing_the_cage_ends_processes_that_ran_away() {
        let mut cage = Cage::open_or_groups().unwrap();
        if cage.kind() == super::super::cage::Kind::Groups {
            eprintln!("skipped: PID namespaces are refused here");
            return;
        }
        // A grandchild in a session of its own, reparented, holding a file it can be recognised by.
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("held");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script =
            format!("setsid sh -c 'exec 3<>{0}; echo up >&3; sleep 1000' >/dev/null 2>&1 & exit 0", fifo.display());
        let mut child = cage.spawn(job(&["sh", "-c", &script])).await.unwrap();
        let mut held = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
        child.wait().await.unwrap();
        let mut line = [0; 3];
        held.read_exact(&mut line).await.unwrap();
        cage.close().await.unwrap();
        // All writers are gone, so the pipe is at its end.
        let end = tokio::time::timeout(Duration::from_secs(10), held.read(&mut line)).await.unwrap().unwrap();
        assert_eq!(end, 0);
    }

    #[tokio::test]
    async fn endless_output_is_cut_and_said_to_be() {
        let cage = Cage::open_or_groups().unwrap();
        let size = (OUTPUT_LIMIT + 1).to_string();
        let mut child = cage.spawn(job(&["head", "-c", &size, "/dev/zero"])).await.unwrap();
        assert!(child.wait().await.unwrap().status.success());
        let output = child.output(Stream::Out);
        assert!(output.truncated);
        assert_eq!(output.bytes.len(), OUTPUT_LIMIT);
    }

    #[tokio::test]
    async fn programs_are_found_as_execvp_finds_them() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("no-interpreter", "echo $0 $1", 0o755);
        write("not-executable", "", 0o644);
        let cage = Cage::open_or_groups().unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        let with_path = |argv: &[&str], path: &str| {
            let mut job = job(argv);
            job.command.env.push(("PATH".to_owned(), path.to_owned()));
            job.directory = directory.path().to_owned();
            job
        };
        for path in [path.as_str(), "/nowhere:."] {
            let mut child = cage.spawn(with_path(&["no-interpreter", "x"], path)).await.unwrap();
            assert!(child.wait().await.unwrap().status.success());
            let said = String::from_utf8(child.output(Stream::Out).bytes).unwrap();
            assert!(said.ends_with("/no-interpreter x\n"), "{said}");
        }
        let error = cage.spawn(with_path(&["not-executable"], &path)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let error = cage.spawn(with_path(&[""], &path)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_cage_that_is_dropped_and_one_whose_start_nobody_awaits_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("held");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!("exec 3<>{}; echo up >&3; exec sleep 1000", fifo.display());
        let cage = Cage::open_or_groups().unwrap();
        let mut held = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
        let child = cage.spawn(job(&["sh", "-c", &script])).await.unwrap();
        held.read_exact(&mut [0; 3]).await.unwrap();
        // Asked for, and given up before the answer.
        let given_up = tokio::time::timeout(Duration::ZERO, cage.spawn(job(&["sh", "-c", &script]))).await;
        drop(cage);
        let mut rest = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(10), held.read_to_end(&mut rest)).await;
        end.expect("all writers are gone").unwrap();
        drop((child, given_up));
    }
}
