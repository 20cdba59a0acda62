//! One guest: a QEMU process with its console, its QMP conversation and the agent inside.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::access::{LoggedIn, Reached, reach};
use super::args::{self, Boot, Files, GuestPlan, Hardware};
use super::console::{Console, quoted};
use super::qmp::Qmp;
use crate::agent::results::{self, ReadLimits};
use crate::agent::{Client, FailureKind};
use crate::host::cage::Job;
use crate::host::cpus;
use crate::host::namespace::Namespace;
use crate::ids::NodeId;
use crate::node::local::Processes;
use crate::node::{Command, Process, Stream};
use crate::testbed::{COLLECT_LIMIT, TestbedError};

/// Between two tries to connect to a QEMU that has just been started.
const POLL: Duration = Duration::from_millis(10);
/// How long QEMU may take to follow its guest, or to end when it is told to.
const END_LIMIT: Duration = Duration::from_secs(2);
/// How long after a failure QEMU may take to be found gone.
const BRIEFLY: Duration = Duration::from_millis(300);
/// Room on the results disk. The file has holes: only what is written takes room.
const RESULTS_BYTES: u64 = 64 << 30;

/// What all guests of an iteration are started with.
pub(super) struct Site<'a> {
    pub(super) hardware: &'a Hardware,
    pub(super) boot: &'a Boot,
    /// QEMU's working directory.
    pub(super) directory: &'a Path,
    /// The host-side namespace, with the taps; `None` for guests without a network.
    pub(super) namespace: Option<&'a Arc<Namespace>>,
    pub(super) processes: &'a Arc<Processes>,
    /// When the agent must have answered.
    pub(super) deadline: Instant,
}

/// A guest whose agent answers.
pub(super) struct Guest {
    pub(super) node: NodeId,
    pub(super) client: Client,
    qmp: Arc<Qmp>,
    running: Arc<Running>,
    /// Process number of QEMU.
    pid: Option<u32>,
    /// The file that is the guest's results disk; it can be read also when its name is gone.
    results: File,
    /// What the conversation goes through, where that is ssh.
    _login: Mutex<Option<LoggedIn>>,
}

/// A guest that did not come up.
#[derive(Debug)]
pub(super) struct NotUp {
    /// Did QEMU itself end?
    pub(super) ended: bool,
    pub(super) error: TestbedError,
}

impl From<TestbedError> for NotUp {
    fn from(error: TestbedError) -> Self {
        Self { ended: false, error }
    }
}

/// A QEMU process, watched.
struct Running {
    node: NodeId,
    console: Arc<Console>,
    ended: watch::Receiver<Option<String>>,
}

impl Running {
    /// Resolves when QEMU has ended, and says how.
    async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "QEMU is not watched any more".to_owned(),
        }
    }

    fn failed(&self, what: impl std::fmt::Display) -> TestbedError {
        TestbedError::Guest { node: self.node, what: format!("{what}{}", quoted(&self.console.tail())) }
    }

    fn not_up(&self, how: &str) -> NotUp {
        NotUp { ended: true, error: self.failed(self.why(how)) }
    }

    /// Why QEMU ended, in the guest's terms where these are known.
    fn why(&self, how: &str) -> String {
        match self.console.panic() {
            Some(why) => format!("the guest's kernel panicked: {why}"),
            None => how.to_owned(),
        }
    }
}

impl Guest {
    /// Starts QEMU and waits until the agent in the guest answers.
    ///
    /// # Errors
    /// [`TestbedError::Guest`] with the reason and the last lines of the console.
    pub(super) async fn launch(site: &Site<'_>, node: NodeId, plan: &GuestPlan) -> Result<Self, TestbedError> {
        Self::attempt(site, node, plan).await.map_err(|not_up| not_up.error)
    }

    /// As [`Guest::launch`], for those who want to know whether QEMU ended.
    pub(super) async fn attempt(site: &Site<'_>, node: NodeId, plan: &GuestPlan) -> Result<Self, NotUp> {
        let files = Files::of(&plan.name);
        let io = |what: &str| {
            let what = format!("{what} of {node}");
            move |source: io::Error| TestbedError::Io { what, source }
        };
        let console = create(site.directory, &files.console).map_err(io("create the console"))?;
        let results = create(site.directory, &files.results).map_err(io("create the results disk"))?;
        results.set_len(RESULTS_BYTES).map_err(io("size the results disk"))?;
        let argv = args::arguments(site.hardware, site.boot, &files, plan);
        // Where QEMU puts what is written to a disk of the user's.
        let env = vec![("TMPDIR".to_owned(), site.directory.to_string_lossy().into_owned())];
        let command = Command { argv, env, ..Command::default() };
        let job = Job { command, directory: site.directory.to_owned(), namespace: site.namespace.cloned() };
        let (process, input, output) = site.processes.converse(job).await.map_err(io("start the QEMU"))?;
        let pid = process.pid();
        let console = Arc::new(Console::new(console));
        let printing = tokio::spawn(Arc::clone(&console).follow(output));
        let running = Arc::new(Running { node, console, ended: watch_end(process, input, printing) });
        let up = async {
            let qmp = connect(site.directory, &files.qmp, site.deadline)
                .await
                .map_err(|error| running.failed(format_args!("QEMU opens no control socket: {error}")))?;
            let (read, write) = qmp.into_split();
            let qmp = Qmp::start(read, write).await.map_err(|error| running.failed(error))?;
            let reached = reach(site, &files, plan).await.map_err(|why| running.failed(why))?;
            Ok::<_, TestbedError>((qmp, reached))
        };
        let (qmp, Reached { client, login }) = tokio::select! {
            biased;
            how = running.ended() => Err(running.not_up(&how)),
            // A conversation that breaks off may be the first sign of a QEMU that has ended.
            up = up => match up {
                Ok(up) => Ok(up),
                Err(error) => match tokio::time::timeout(BRIEFLY, running.ended()).await {
                    Ok(how) => Err(running.not_up(&how)),
                    Err(_) => Err(NotUp::from(error)),
                },
            },
        }?;
        Ok(Self { node, client, qmp: Arc::new(qmp), running, pid, results, _login: Mutex::new(login) })
    }

    /// Resolves when the guest is gone, whatever the reason, and says which.
    pub(super) fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let (running, qmp, client) = (Arc::clone(&self.running), Arc::clone(&self.qmp), self.client.clone());
        async move {
            let how = tokio::select! {
                how = running.ended() => how,
                // QEMU may be about to follow its guest, and then says more.
                silence = client.lost() => {
                    match tokio::time::timeout(END_LIMIT, running.ended()).await {
                        Ok(how) => how,
                        Err(_) => format!("{silence}"),
                    }
                }
            };
            let why = match shutdown_reason(&qmp) {
                Some(reason) if running.console.panic().is_none() => format!("{reason} ({how})"),
                _ => running.why(&how),
            };
            format!("{}: {why}{}", running.node, quoted(&running.console.tail()))
        }
    }

    /// An error of this guest, with the last lines of its console.
    pub(super) fn failed(&self, what: impl std::fmt::Display) -> TestbedError {
        self.running.failed(what)
    }

    /// Is QEMU there and the machine running?
    pub(super) async fn is_well(&self) -> bool {
        let ended = self.running.ended.borrow().is_some();
        let status = self.qmp.execute("query-status", Value::Null).await;
        !ended && status.is_ok_and(|status| status["running"] == true)
    }

    /// Brings files of the guest into an empty directory of this host, over the results disk: of any size, without a
    /// byte of them on the channel; through the channel where one of them cannot be on the disk. Returns their paths here.
    pub(super) async fn collect(&self, paths: &[String], directory: &Path) -> Result<Vec<PathBuf>, TestbedError> {
        let receipt = match self.client.archive(paths).await {
            Ok(receipt) => receipt,
            Err(error) if error.failure() == Some(FailureKind::Invalid) => {
                return self.collect_through_channel(paths, directory).await;
            }
            Err(error) => return Err(self.failed(&error)),
        };
        let disk = PathBuf::from(format!("/proc/self/fd/{}", self.results.as_raw_fd()));
        let directory = directory.to_owned();
        let read = move || results::read_as_told(&disk, &receipt, ReadLimits::default(), &directory);
        let unpacked = tokio::task::spawn_blocking(read).await.map_err(|error| self.failed(error))?;
        let unpacked = unpacked.map_err(|error| self.failed(&error))?;
        Ok(unpacked.into_iter().map(|file| file.path).collect())
    }

    async fn collect_through_channel(&self, paths: &[String], directory: &Path) -> Result<Vec<PathBuf>, TestbedError> {
        let mut collected = Vec::new();
        for path in paths {
            let target = directory.join(path.trim_start_matches('/'));
            let made = target.parent().map_or(Ok(()), std::fs::create_dir_all);
            let what = format!("make the directory of {}", target.display());
            made.map_err(|source| TestbedError::Io { what, source })?;
            // No disk is attached to the conversation.
            self.client.bring(path, COLLECT_LIMIT, &target).await.map_err(|error| self.failed(&error))?;
            collected.push(target);
        }
        Ok(collected)
    }

    /// What the guest printed so far.
    pub(super) fn console(&self) -> &Console {
        &self.running.console
    }

    /// Binds the virtual CPUs to CPUs of this host, one after the other, and says what is in force for each; `None` for
    /// what cannot be read.
    pub(super) async fn pin(&self, to: &[usize]) -> Result<(), TestbedError> {
        let failed = |source| TestbedError::Io { what: format!("pin the virtual CPUs of {}", self.node), source };
        let threads = self.threads().await.map_err(failed)?;
        for (thread, cpu) in threads.into_iter().zip(to.iter().cycle()) {
            cpus::pin(thread, &[*cpu]).map_err(failed)?;
        }
        Ok(())
    }

    /// CPUs of this host that each virtual CPU may run on, as `0;1`; `None` when that cannot be read.
    pub(super) async fn pinned(&self) -> Option<String> {
        let threads = self.threads().await.ok()?;
        let text = |thread| Some(cpus::of(thread)?.iter().map(usize::to_string).collect::<Vec<_>>().join(","));
        Some(threads.into_iter().map(text).collect::<Option<Vec<String>>>()?.join(";"))
    }

    /// Threads of the virtual CPUs, as this host numbers them: QEMU knows them by their numbers in its own namespace.
    async fn threads(&self) -> io::Result<Vec<i32>> {
        let inner = self.qmp.cpu_threads().await.map_err(io::Error::other)?;
        let pid = self.pid.ok_or_else(|| io::Error::other("QEMU's process number is not known"))?;
        inner.into_iter().map(|thread| cpus::thread_of(pid, thread)).collect()
    }

    /// What QEMU itself says: whether KVM is on, bytes of memory, type of the network card. `None` for what it does not.
    pub(super) async fn hardware(&self) -> [(&'static str, Option<String>); 3] {
        let kvm = self.qmp.execute("query-kvm", Value::Null).await.ok();
        let accel = kvm.and_then(|kvm| Some(if kvm["enabled"].as_bool()? { "kvm" } else { "tcg" }.to_owned()));
        let memory = self.qmp.execute("query-memory-size-summary", Value::Null).await.ok();
        let memory = memory.and_then(|memory| Some(memory["base-memory"].as_u64()?.to_string()));
        let card = json!({ "path": "/machine/peripheral/card0", "property": "type" });
        let card = self.qmp.execute("qom-get", card).await.ok().and_then(|card| Some(card.as_str()?.to_owned()));
        [("accel", accel), ("memory", memory), ("driver", card)]
    }

    /// Asks QEMU to end and waits a moment; the cage kills it otherwise.
    pub(super) async fn quit(&self) {
        // QEMU may be gone before it has answered, or long before.
        let _ = self.qmp.execute("quit", Value::Null).await;
        let _ = tokio::time::timeout(END_LIMIT, self.running.ended()).await;
    }
}

/// Why the machine was shut down, as QEMU told before it went; `None` when it was told to, or said nothing.
fn shutdown_reason(qmp: &Qmp) -> Option<&'static str> {
    let event = qmp.events().into_iter().rfind(|event| event.name == "SHUTDOWN")?;
    match event.data["reason"].as_str()? {
        "guest-reset" => Some("the guest rebooted"),
        "guest-shutdown" => Some("the guest switched itself off"),
        "guest-panic" => Some("the guest panicked"),
        "host-signal" => Some("QEMU was told to end by a signal"),
        _ => None,
    }
}

fn create(directory: &Path, name: &str) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).open(directory.join(name))
}

/// Hands the process to a task that says how it ended, when all that the guest printed before is in its console.
fn watch_end(
    mut process: Box<dyn Process>,
    input: pipe::Sender,
    printing: JoinHandle<()>,
) -> watch::Receiver<Option<String>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let how = match process.wait().await {
            Ok(exit) => format!("QEMU ended with {}{}", exit.status, last_words(process.as_ref())),
            Err(error) => error.to_string(),
        };
        // Its end would be the end of the guest's console.
        drop(input);
        let _ = tokio::time::timeout(END_LIMIT, printing).await;
        // Nobody may be left who wants to know.
        let _ = sender.send(Some(how));
    });
    receiver
}

/// The last lines of standard error.
fn last_words(process: &dyn Process) -> String {
    let output = process.output(Stream::Err).bytes;
    let text = String::from_utf8_lossy(&output);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(3)..];
    if last.is_empty() { String::new() } else { format!(": {}", last.join("; ")) }
}

/// Connects to a socket of a QEMU that may not have made it yet. Paths of sockets hold 107 bytes: the directory is named
/// by a descriptor.
pub(super) async fn connect(directory: &Path, name: &str, deadline: Instant) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    loop {
        match UnixStream::connect(&path).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    && Instant::now() < deadline =>
            {
                tokio::time::sleep(POLL).await;
            }
            other => return other,
        }
    }
}
