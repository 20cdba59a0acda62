//! Commands and files for nodes through minimega's command and control (`cc`) and the miniccc in them.
//!
//! Everything that minimega answers about a command's end comes too early or not at all: the counter of responses is raised
//! before the files are there, a client that ends is listed for half a minute, a file that could not be sent or received is
//! none. So a phase ([`Phase`]) is posted whole, its report is read from minimega's files, and it counts only with its last
//! line; files count only with their checksums.

mod archive;
mod head;
mod mailbox;
mod phase;
mod report;
mod start;
mod turn;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::try_join_all;
use sha2::{Digest as _, Sha256};
use tokio::sync::RwLock;
use tokio::time::Instant;

pub use head::{Head, MinimegaHead, Order};
pub use mailbox::Mailbox;
pub use phase::{Phase, SHOWN, SHOWN_ALL, Sent, Step};
pub use report::{Report, StepReport, StepStatus};
pub use start::start_at_port;

use self::phase::Place;
use self::report::Seen;
use super::error::{MinimegaError, PhaseFailure};
use crate::text::printable_bytes;

/// The fact that says how many round trips through miniccc an iteration took on a node.
pub(in crate::testbed) const ROUND_TRIPS: &str = "testbed.cc.round_trips";
/// Where miniccc keeps files when it is not told otherwise.
pub const GUEST_FILES: &str = "/tmp/miniccc/files";
/// Bytes per second that files move with at least.
const SLOWEST: u64 = 1 << 20;
/// Time stamps of files are those of the last tick of the kernel's clock.
const CLOCK_GRAIN: Duration = Duration::from_millis(20);
/// Bytes of files that are brought from a node in one phase.
const FETCHED: u64 = 64 << 30;

/// How often things are looked at, and how long they are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two looks at a report.
    pub poll: Duration,
    /// Between two looks at the list of clients.
    pub look: Duration,
    /// How long a report may stay as it is, after its command has ended, until it is given up.
    pub settle: Duration,
    /// What a phase may take beside its script: two heartbeats of 5 s and more.
    pub budget: Duration,
    /// What a script may take beside its steps, in whole seconds.
    pub overhead: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(50),
            look: Duration::from_secs(1),
            settle: Duration::from_secs(5),
            budget: Duration::from_secs(20),
            overhead: Duration::from_secs(60),
        }
    }
}

/// A node with a miniccc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in messages.
    pub node: String,
    /// What its miniccc reports as.
    pub uuid: String,
    /// Directory of its miniccc's files; usually [`GUEST_FILES`].
    pub files: String,
}

/// Nodes that have the same head.
pub struct Channel {
    head: Arc<dyn Head>,
    timing: Timing,
    trips: AtomicU32,
    /// Held by whoever has orders under way; alone by whoever removes those that are done.
    quiet: RwLock<()>,
}

/// What came of a phase on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What its steps did.
    pub report: Report,
    /// The files that were brought, here, in the order in which `tar` packed them.
    pub files: Vec<PathBuf>,
}

/// A phase that minimega has.
struct Posted<'a> {
    member: &'a Member,
    phase: &'a Phase,
    place: Place,
    checksums: Vec<String>,
    /// What was written to be sent.
    written: Written,
    command: u64,
    fetch: Option<u64>,
    /// What was written before belongs to another command of the same number.
    since: SystemTime,
}

impl Channel {
    /// The nodes of this head.
    pub fn new(head: Arc<dyn Head>, timing: Timing) -> Self {
        Self { head, timing, trips: AtomicU32::new(0), quiet: RwLock::default() }
    }

    /// How many times nodes were given something to do and waited for, all at once counting once.
    pub fn round_trips(&self) -> u32 {
        self.trips.load(Ordering::Relaxed)
    }

    /// Waits until all of them have reported. `cc_active` in `vm info` would be up to 20 s late.
    ///
    /// # Errors
    /// [`MinimegaError::NoClient`] with those that have not, and as [`super::Namespace::run`].
    pub async fn await_clients(&self, members: &[Member], limit: Duration) -> Result<(), MinimegaError> {
        let begun = Instant::now();
        loop {
            let clients = self.head.clients().await?;
            let missing = members.iter().filter(|member| !clients.contains(&member.uuid));
            let missing: Vec<String> = missing.map(|member| member.node.clone()).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if begun.elapsed() >= limit {
                return Err(MinimegaError::NoClient { missing, waited: limit });
            }
            tokio::time::sleep(self.timing.poll).await;
        }
    }

    /// Has each node do its phase, all at the same time, and waits for all: one round trip. Files are brought into a
    /// directory of the node's name below `into`.
    ///
    /// # Errors
    /// [`MinimegaError::Phase`] with the first failure, and as [`super::Namespace::run`]. What a node has begun, it goes on
    /// with.
    pub async fn run(&self, jobs: &[(Member, Phase)], into: &Path) -> Result<Vec<Outcome>, MinimegaError> {
        for (member, phase) in jobs {
            if let Some(why) = phase::fault(phase) {
                return Err(MinimegaError::Unsendable { word: member.node.clone(), why });
            }
        }
        let _under_way = self.quiet.read().await;
        // One that is posted when its client is not there is lost for ever.
        let clients = self.head.clients().await?;
        if let Some((member, _)) = jobs.iter().find(|(member, _)| !clients.contains(&member.uuid)) {
            return Err(MinimegaError::phase(&member.node, PhaseFailure::Vanished));
        }
        self.trips.fetch_add(1, Ordering::Relaxed);
        let mut posted = Vec::new();
        for (member, phase) in jobs {
            posted.push(self.post(member, phase).await?);
        }
        let outcomes = try_join_all(posted.iter().map(|posted| self.outcome(posted, into))).await;
        for posted in posted {
            self.forget(posted).await;
        }
        outcomes
    }

    /// Removes what orders that are done have left at the head, if it is much. Waits for those that are under way then.
    ///
    /// # Errors
    /// As [`super::Daemon::run`].
    pub async fn tidy(&self) -> Result<(), MinimegaError> {
        if self.head.sweep().await { self.finish().await } else { Ok(()) }
    }

    /// Removes it however little it is; clients need a heartbeat for that.
    ///
    /// # Errors
    /// As [`super::Daemon::run`].
    pub async fn finish(&self) -> Result<(), MinimegaError> {
        let _alone = self.quiet.write().await;
        self.head.clear().await
    }

    async fn post<'a>(&self, member: &'a Member, phase: &'a Phase) -> Result<Posted<'a>, MinimegaError> {
        let nonce = format!("{:016x}", crate::agent::fresh_number());
        let (directory, name) = self.head.outgoing();
        let place = Place { nonce, incoming: format!("{}/{name}", member.files) };
        let checksums: Vec<String> = phase.send.iter().map(|sent| checksum(&sent.content)).collect();
        let (mut orders, mut written) = (Vec::new(), Written::default());
        let mut send = |name: String, content: &[u8]| {
            let path = directory.join(&name);
            orders.push(Order::Send(name));
            written.write(path, content)
        };
        // No name is used twice: miniccc never overwrites.
        for (index, sent) in phase.send.iter().enumerate() {
            send(place.sent(index), &sent.content)?;
        }
        send(place.script(), phase::script(phase, &place, &checksums).as_bytes())?;
        orders.push(Order::Run(phase::command(phase, &place, self.timing.overhead)));
        let command = orders.len() - 1;
        if !phase.fetch.is_empty() {
            // Never empty, which would break the client's transfers for good: an archive has at least its end.
            orders.push(Order::Receive(place.archive()));
        }
        let since = SystemTime::now().checked_sub(CLOCK_GRAIN).unwrap_or(SystemTime::UNIX_EPOCH);
        let ids = self.head.post(&member.uuid, &orders).await?;
        if ids.len() != orders.len() {
            let text = format!("{} numbers came for {} orders", ids.len(), orders.len());
            return Err(MinimegaError::Answer { command: "cc".to_owned(), text });
        }
        let fetch = ids.get(command + 1).copied();
        Ok(Posted { member, phase, place, checksums, written, command: ids[command], fetch, since })
    }

    async fn outcome(&self, posted: &Posted<'_>, into: &Path) -> Result<Outcome, MinimegaError> {
        let failed = |failure| MinimegaError::phase(&posted.member.node, failure);
        let report = self.report(posted).await?;
        let (Some(archive), Some(command)) = (&report.archive, posted.fetch) else {
            return Ok(Outcome { report, files: Vec::new() });
        };
        if archive.bytes > FETCHED {
            let why = format!("{} bytes are too many ({FETCHED} at most)", archive.bytes);
            return Err(failed(PhaseFailure::NotFetched(why)));
        }
        let path = self.response(command, posted.member).join(posted.place.archive().trim_start_matches('/'));
        let deadline = Instant::now() + self.timing.budget + Duration::from_secs(archive.bytes / SLOWEST);
        loop {
            self.head.bring(&path).await?;
            if length(&path) == Some(archive.bytes) {
                break;
            }
            if Instant::now() >= deadline {
                let there = length(&path).map_or("nothing".to_owned(), |bytes| format!("{bytes} bytes"));
                let why = format!("{there} of {} bytes came", archive.bytes);
                return Err(failed(PhaseFailure::NotFetched(why)));
            }
            self.check_client(posted.member).await?;
            tokio::time::sleep(self.poll()).await;
        }
        let (expected, directory) = (archive.sha256.clone(), into.join(&posted.member.node));
        let unpacked = tokio::task::spawn_blocking(move || bring(&path, &expected, &directory)).await;
        let files = unpacked.map_err(io::Error::other).and_then(|unpacked| unpacked);
        let files = files.map_err(|error| failed(PhaseFailure::NotFetched(error.to_string())))?;
        Ok(Outcome { report, files })
    }

    /// Waits for a report.
    async fn report(&self, posted: &Posted<'_>) -> Result<Report, MinimegaError> {
        let failed = |failure| MinimegaError::phase(&posted.member.node, failure);
        let directory = self.response(posted.command, posted.member);
        let sent: u64 = posted.phase.send.iter().map(|sent| sent.content.len() as u64).sum();
        let limit =
            phase::limit(posted.phase, self.timing.overhead) + self.timing.budget + Duration::from_secs(sent / SLOWEST);
        let (begun, largest) = (Instant::now(), phase::largest_report(posted.phase));
        let (mut seen, mut exit) = (None, None);
        let (mut changed, mut looked) = (begun, begun);
        loop {
            self.head.bring(&directory.join("stdout")).await?;
            let length = length(&directory.join("stdout")).filter(|_| is_new(&directory.join("stdout"), posted.since));
            if length != seen {
                (seen, changed) = (length, Instant::now());
                let output = content(&directory.join("stdout"), largest)
                    .map_err(|error| failed(PhaseFailure::Report(error.to_string())))?;
                match report::read(&output, posted.phase, &posted.place, &posted.checksums).map_err(failed)? {
                    Seen::Whole(report) => return Ok(*report),
                    Seen::Refused(failure) => return Err(failed(failure)),
                    Seen::Part => {}
                }
            }
            if exit.is_none() {
                self.head.bring(&directory.join("exitcode")).await?;
                // The time to settle begins with the end.
                let code = exit_code(&directory).filter(|_| is_new(&directory.join("exitcode"), posted.since));
                (exit, changed) = (code, Instant::now());
            }
            if let Some(exit) = exit
                && changed.elapsed() >= self.timing.settle
            {
                self.head.bring(&directory.join("stderr")).await?;
                let text = content(&directory.join("stderr"), 4096).unwrap_or_default();
                return Err(failed(PhaseFailure::Died { exit, text: printable_bytes(&text, 400) }));
            }
            if begun.elapsed() >= limit {
                return Err(failed(PhaseFailure::Silent { waited: limit }));
            }
            if looked.elapsed() >= self.timing.look {
                self.check_client(posted.member).await?;
                looked = Instant::now();
            }
            tokio::time::sleep(self.poll()).await;
        }
    }

    /// Between two looks.
    fn poll(&self) -> Duration {
        self.timing.poll.max(self.head.pause())
    }

    async fn check_client(&self, member: &Member) -> Result<(), MinimegaError> {
        if self.head.clients().await?.contains(&member.uuid) {
            return Ok(());
        }
        Err(MinimegaError::phase(&member.node, PhaseFailure::Vanished))
    }

    /// Where the daemon puts what a client has to say to a command.
    fn response(&self, command: u64, member: &Member) -> PathBuf {
        self.head.responses().join(command.to_string()).join(&member.uuid)
    }

    /// Removes a phase's files from the hosts. Those that stay go with the namespace.
    async fn forget(&self, posted: Posted<'_>) {
        let answered = [Some(posted.command), posted.fetch].into_iter().flatten();
        let answered = answered.map(|command| self.head.responses().join(command.to_string()));
        let far: Vec<PathBuf> = posted.written.0.iter().cloned().chain(answered).collect();
        self.head.forget(&far).await;
        drop(posted.written);
        let output = self.response(posted.command, posted.member);
        for name in ["exitcode", "stdout", "stderr"] {
            let path = output.join(name);
            if is_new(&path, posted.since) {
                let _ = std::fs::remove_file(path);
            }
        }
        let responses = self.head.responses();
        remove_empty(&output, &responses);
        if let Some(fetch) = posted.fetch {
            let archive = self.response(fetch, posted.member).join(posted.place.archive().trim_start_matches('/'));
            let _ = std::fs::remove_file(&archive);
            archive.parent().inspect(|parent| remove_empty(parent, &responses));
        }
    }
}

/// Was it written since then?
fn is_new(path: &Path, since: SystemTime) -> bool {
    std::fs::symlink_metadata(path).and_then(|meta| meta.modified()).is_ok_and(|modified| modified >= since)
}

/// Removes a directory and those it is in, up to `top`, as far as nothing is in them.
fn remove_empty(directory: &Path, top: &Path) {
    let inside = directory.ancestors().take_while(|directory| *directory != top && directory.starts_with(top));
    for directory in inside {
        if std::fs::remove_dir(directory).is_err() {
            return;
        }
    }
}

fn checksum(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Files that are to be sent. They are removed when it is dropped, also when whoever waits for what comes of them has had
/// enough: nobody else would, where the directory is rond's.
#[derive(Default)]
struct Written(Vec<PathBuf>);

impl Written {
    fn write(&mut self, path: PathBuf, content: &[u8]) -> Result<(), MinimegaError> {
        let written = write(&path, content);
        let what = format!("write {}", path.display());
        if !written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            self.0.push(path);
        }
        written.map_err(MinimegaError::file(what))
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for path in &self.0 {
            // One that could not be written is not there.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Writes a file that is not there, and the directory it is in.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(content)
}

/// Length of a regular file; `None` for anything else, also for a link.
fn length(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len())
}

/// A whole regular file; empty when there is none.
fn content(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if length(path).is_none() {
        return Ok(Vec::new());
    }
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Exit status of a command that has ended, as miniccc gives it.
fn exit_code(directory: &Path) -> Option<i64> {
    let text = content(&directory.join("exitcode"), 32).ok()?;
    str::from_utf8(&text).ok()?.trim().parse().ok()
}

fn bring(path: &Path, expected: &str, directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => hash.update(&piece[..count]),
        }
    }
    let found = hex(&hash.finalize());
    if found != expected {
        return Err(io::Error::other(format!("they were packed with checksum {expected} and came with {found}")));
    }
    std::fs::create_dir_all(directory)?;
    archive::unpack(path, directory, FETCHED)
}
