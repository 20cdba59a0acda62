//! A running minimega, and namespaces of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize as _;

use super::afar;
use super::error::{MinimegaError, shown};
use super::line::{Line, is_name, is_preprocessed, quoted};
use super::machine::{State, machines};
use super::socket::{Limits, Peer, Socket};
use super::version::Version;
use super::wire::{Answer, Dialect, Row};
use crate::ids::ShortHash;

/// Where minimega puts its socket when it is not told otherwise.
pub const DEFAULT_SOCKET: &str = "/tmp/minimega/minimega";
/// How long a launch may be under way that a removal waits for: one whose QEMU does not come up takes 5 s to fail.
const SETTLE: Duration = Duration::from_secs(20);
/// How long clearing a namespace may take.
const CLEAR: Duration = Duration::from_secs(60);
/// How long what clients have said may still be written after their namespace is gone.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Beginning of the names of vptest's namespaces.
const PREFIX: &str = "vptest";
/// Connections that are kept for further commands.
const IDLE: usize = 8;

/// A minimega that answers. Commands go over as many connections as are in use at once; each is used again.
#[derive(Debug)]
pub struct Daemon {
    socket: PathBuf,
    limits: Limits,
    idle: Mutex<Vec<Socket>>,
    peer: Peer,
    /// Its release.
    pub version: Version,
    /// Name of its host, as the daemons of a mesh know it.
    pub host: String,
    /// Directory that files are sent from and received into (`-filepath`).
    pub files: PathBuf,
    /// Its own directory (`-base`), with a directory for each machine.
    pub base: PathBuf,
    preprocess: bool,
    record: bool,
    /// Held during each command where namespaces are not apart.
    turn: Option<tokio::sync::Mutex<()>>,
    /// Was a command over the mesh not answered in time, and none since?
    mesh_hangs: AtomicBool,
}

impl Daemon {
    /// Connects and finds out what the daemon is.
    ///
    /// # Errors
    /// [`MinimegaError::Connect`], [`MinimegaError::TooOld`], and what a command can have.
    pub async fn open(socket: &Path, limits: Limits) -> Result<Arc<Self>, MinimegaError> {
        let mut first = Socket::connect(socket, Dialect::Minimega, limits).await?;
        let answer = first.ask(&Line::of(["version"]), limits.answer).await?;
        let version = Version::parse(answer.text());
        if version.lacks_ids() {
            let needs = "2.6 is the first that says the numbers of posted commands".to_owned();
            return Err(MinimegaError::TooOld { program: "minimega", version: version.to_string(), needs });
        }
        let base = socket.parent().unwrap_or(Path::new("/")).to_owned();
        let mut daemon = Self {
            socket: socket.to_owned(),
            limits,
            peer: first.peer(),
            idle: Mutex::new(vec![first]),
            turn: (!version.namespaces_are_apart()).then(tokio::sync::Mutex::default),
            version,
            host: answer.responses.first().map(|response| response.host.clone()).unwrap_or_default(),
            files: base.join("files"),
            base,
            preprocess: false,
            record: false,
            mesh_hangs: AtomicBool::new(false),
        };
        daemon.preprocess = daemon.knows(&[".preprocess", "false", "version"]).await?;
        daemon.record = daemon.knows(&[".record", "false", "version"]).await?;
        daemon.read_arguments().await?;
        Ok(Arc::new(daemon))
    }

    async fn knows(&self, words: &[&str]) -> Result<bool, MinimegaError> {
        match self.run(&Line::of(words)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_unknown_command() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Older ones do not say what they were started with.
    async fn read_arguments(&mut self) -> Result<(), MinimegaError> {
        let line = Line::of(["args"]);
        let answer = match self.run(&line).await {
            Err(error) if error.is_unknown_command() => return Ok(()),
            other => other?,
        };
        let rows = answer.table(&["base", "filepath"]).map_err(|garbled| MinimegaError::answer("args", garbled))?;
        if let [row] = rows.as_slice() {
            (self.base, self.files) = (row.field("base").into(), row.field("filepath").into());
        }
        Ok(())
    }

    /// The process it is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Path of its command socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs a command with the usual limit.
    ///
    /// # Errors
    /// See [`MinimegaError`]. A command without an answer is never sent again: it may have been done.
    pub async fn run(&self, line: &Line) -> Result<Answer, MinimegaError> {
        self.run_within(line, self.limits.answer).await
    }

    /// Runs a command.
    ///
    /// # Errors
    /// As [`Daemon::run`].
    pub async fn run_within(&self, line: &Line, limit: Duration) -> Result<Answer, MinimegaError> {
        let _turn = match &self.turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let mut socket = self.connection().await?;
        let result = socket.ask(line, limit).await;
        if matches!(result, Ok(_) | Err(MinimegaError::Refused { .. })) {
            self.keep(socket);
        } else {
            // What the others have to say is as old.
            self.lock().clear();
        }
        result
    }

    /// As [`Daemon::run_within`], for what is answered by other hosts of the mesh. Once they have not, later commands are given
    /// [`Limits::hurry`], until one of these hosts has answered.
    async fn run_over_mesh(&self, line: &Line, limit: Duration) -> Result<Answer, MinimegaError> {
        let limit = if self.mesh_hangs() { limit.min(self.limits.hurry) } else { limit };
        let result = self.run_within(line, limit).await;
        match &result {
            Ok(answer) if answer.responses.iter().any(|response| response.host != self.host) => self.hangs(false),
            Err(MinimegaError::TimedOut { .. }) => self.hangs(true),
            _ => {}
        }
        result
    }

    /// Has the mesh not answered in time when it was asked last?
    pub(super) fn mesh_hangs(&self) -> bool {
        self.mesh_hangs.load(Ordering::Relaxed)
    }

    fn hangs(&self, hangs: bool) {
        self.mesh_hangs.store(hangs, Ordering::Relaxed);
    }

    /// Takes over what another conversation with the same daemon has found out about its mesh.
    pub(super) fn expect_hanging(&self) {
        self.hangs(true);
    }

    /// Runs a command on one host of the mesh, this one included. Nothing else of the mesh is asked.
    ///
    /// # Errors
    /// As [`Daemon::run`], and [`MinimegaError::Unsendable`] for words that would not get there as they are. A host that
    /// goes while it is asked never answers, and minimega then waits for it with all that it asks of others.
    pub(super) async fn run_at<S: AsRef<str>>(&self, host: &str, words: &[S]) -> Result<Answer, MinimegaError> {
        let words = words.iter().map(AsRef::as_ref);
        if host == self.host {
            return self.run(&Line::of(words)).await;
        }
        let line = ["mesh", "send", host].into_iter().chain(words.clone());
        // There it is put together once more, and only words with a blank are quoted.
        if let Some(word) = words.clone().find(|word| quoted(word) != *word || is_preprocessed(word)) {
            let why = "on the way to another host of the mesh, minimega would change it".to_owned();
            return Err(MinimegaError::Unsendable { word: shown(word), why });
        }
        let answer = self.run_over_mesh(&Line::of(line.clone()), self.limits.answer).await?;
        // One that is not in the mesh gives no answer, and that is no error.
        if answer.responses.iter().any(|response| response.host == host) {
            return Ok(answer);
        }
        let command = shown(Line::of(line).as_str());
        Err(MinimegaError::Answer { command, text: format!("{host} has not answered: it is not in the mesh") })
    }

    /// Names of all hosts of its mesh, its own included; it alone where there is none.
    ///
    /// # Errors
    /// As [`Daemon::run`].
    pub(super) async fn mesh(&self) -> Result<Vec<String>, MinimegaError> {
        let status = self.run(&Line::of(["mesh", "status"])).await?;
        let rows = status.table(&["size"]).map_err(|garbled| MinimegaError::answer("mesh status", garbled))?;
        if rows.first().is_some_and(|row| row.field("size") == "1") {
            return Ok(vec![self.host.clone()]);
        }
        let list = self.run(&Line::of(["mesh", "list", "all"])).await?;
        let names = list.responses.first().map(|response| Vec::<String>::deserialize(&response.data));
        match names {
            Some(Ok(names)) if names.contains(&self.host) => Ok(names),
            _ => {
                let text = format!("it names no hosts, or not {}", self.host);
                Err(MinimegaError::Answer { command: "mesh list all".to_owned(), text })
            }
        }
    }

    /// Directory of files (`-filepath`) of a host of the mesh.
    ///
    /// # Errors
    /// [`MinimegaError::Answer`] when it does not say, and as [`Daemon::run_at`].
    pub(super) async fn files_at(&self, host: &str) -> Result<PathBuf, MinimegaError> {
        if host == self.host {
            return Ok(self.files.clone());
        }
        let answer = self.run_at(host, &["args"]).await?;
        let rows = answer.table(&["filepath"]).map_err(|garbled| MinimegaError::answer("args", garbled))?;
        match rows.as_slice() {
            [row] if row.field("filepath").starts_with('/') => Ok(row.field("filepath").into()),
            _ => {
                let text = format!("{host} does not say where its files are");
                Err(MinimegaError::Answer { command: "args".to_owned(), text })
            }
        }
    }

    async fn connection(&self) -> Result<Socket, MinimegaError> {
        let kept = self.lock().pop();
        if let Some(socket) = kept {
            return Ok(socket);
        }
        let socket = Socket::connect(&self.socket, Dialect::Minimega, self.limits).await?;
        if socket.peer() != self.peer {
            return Err(MinimegaError::Restarted { socket: self.socket.clone() });
        }
        Ok(socket)
    }

    fn keep(&self, socket: Socket) {
        let mut idle = self.lock();
        if !socket.is_worn() && idle.len() < IDLE {
            idle.push(socket);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Socket>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of all its namespaces.
    ///
    /// # Errors
    /// As [`Daemon::run`].
    pub async fn namespaces(&self) -> Result<Vec<String>, MinimegaError> {
        let line = Line::of(["namespace"]);
        let answer = self.run(&line).await?;
        let rows = answer.table(&["namespace"]).map_err(|garbled| MinimegaError::answer("namespace", garbled))?;
        Ok(rows.iter().map(|row| row.field("namespace").to_owned()).collect())
    }

    /// The namespace of that name, which comes to be when it is first used.
    ///
    /// # Errors
    /// [`MinimegaError::Unsendable`] for a name that minimega does not take.
    pub fn namespace(self: &Arc<Self>, name: &str) -> Result<Namespace, MinimegaError> {
        if !is_name(name) {
            let why = "names have letters, digits, hyphens and underscores".to_owned();
            return Err(MinimegaError::Unsendable { word: shown(name), why });
        }
        Ok(Namespace {
            daemon: Arc::clone(self),
            name: name.to_owned(),
            hosts: Vec::new(),
            configuring: tokio::sync::Mutex::default(),
            busy: tokio::sync::RwLock::default(),
            gone: AtomicBool::new(false),
        })
    }

    /// A namespace that nobody has and nobody will have again: its name says whose it is.
    ///
    /// # Errors
    /// As [`Daemon::run`].
    pub async fn fresh_namespace(self: &Arc<Self>, owner: &Owner) -> Result<Namespace, MinimegaError> {
        let taken = self.namespaces().await?;
        loop {
            let name = owner.fresh_name();
            if !taken.contains(&name) && !self.files.join(&name).exists() {
                return self.namespace(&name);
            }
        }
    }

    /// Names of its namespaces that this owner has made.
    ///
    /// # Errors
    /// As [`Daemon::run`].
    pub async fn namespaces_of(&self, owner: &Owner) -> Result<Vec<String>, MinimegaError> {
        let all = self.namespaces().await?;
        Ok(all.into_iter().filter(|name| owner.owns(name)).collect())
    }
}

/// Whose a namespace is: a user's, for a campaign. Both are in its name, `vptest-UID-CAMPAIGN-RANDOM`, so that neither
/// another user's namespace nor one of another campaign's can be taken for this one's, also after a reboot and from
/// another PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    campaign: ShortHash,
}

impl Owner {
    /// This user, for the campaign in this directory.
    pub fn of(campaign: &Path) -> Self {
        let path = campaign.canonicalize().or_else(|_| std::path::absolute(campaign));
        let path = path.unwrap_or_else(|_| campaign.to_owned());
        let campaign = ShortHash::of(path.as_os_str().as_encoded_bytes());
        Self { uid: nix::unistd::geteuid().as_raw(), campaign }
    }

    fn fresh_name(&self) -> String {
        format!("{}{:08x}", self.prefix(), crate::agent::fresh_number() >> 32)
    }

    /// How the names of its namespaces begin.
    pub(super) fn prefix(&self) -> String {
        let Self { uid, campaign } = self;
        format!("{PREFIX}-{uid}-{campaign}-")
    }

    /// Has a namespace of this name been made by this owner?
    pub fn owns(&self, name: &str) -> bool {
        name.strip_prefix(&self.prefix()).is_some_and(is_random)
    }
}

fn is_random(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Is it the name of a namespace that this user has made with vptest, for any campaign?
pub(super) fn is_own(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let [PREFIX, uid, campaign, random] = parts.as_slice() else { return false };
    let hexadecimal = campaign.len() == 12 && campaign.bytes().all(|byte| byte.is_ascii_hexdigit());
    *uid == nix::unistd::geteuid().as_raw().to_string() && hexadecimal && is_random(random)
}

/// A namespace of a minimega's: machines, networks and clients of their own.
///
/// Its configuration (`vm config`, `cc filter`, capture options) belongs to all connections, so that whoever sets it and
/// uses it holds [`Namespace::configuring`] meanwhile.
#[derive(Debug)]
pub struct Namespace {
    daemon: Arc<Daemon>,
    name: String,
    /// Hosts of the mesh that it is to have; empty for a minimega without a mesh.
    hosts: Vec<String>,
    configuring: tokio::sync::Mutex<()>,
    /// Held by whoever uses it; alone by whoever removes it.
    busy: tokio::sync::RwLock<()>,
    /// Was it removed? minimega would make it anew at the next mention.
    gone: AtomicBool,
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose it is.
    pub fn daemon(&self) -> &Arc<Daemon> {
        &self.daemon
    }

    /// The same, with machines on these hosts of the mesh. Only [`Namespace::pin`] tells minimega.
    pub(super) fn on(mut self, hosts: &[String]) -> Self {
        hosts.clone_into(&mut self.hosts);
        self
    }

    /// Hosts of the mesh that it is to have; empty where there is no mesh.
    pub(super) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The other host that all of it is on; `None` for one that has machines here.
    pub(super) fn far(&self) -> Option<&str> {
        match self.hosts.as_slice() {
            [host] if *host != self.daemon.host => Some(host),
            _ => None,
        }
    }

    /// Makes its hosts those that it is to have: minimega gives a new one all hosts but its own. To be called before
    /// anything else is said to it, which all of them would hear.
    ///
    /// # Errors
    /// As [`Namespace::run`], also for a host that is not in the mesh.
    pub(super) async fn pin(&self) -> Result<(), MinimegaError> {
        self.pin_each().await.into_iter().next().map_or(Ok(()), Err)
    }

    /// As [`Namespace::pin`], going on past hosts that are not there: the others are to be reached.
    async fn pin_each(&self) -> Vec<MinimegaError> {
        if self.hosts.is_empty() {
            return Vec::new();
        }
        let mut failures: Vec<_> = self.run(&["ns", "del-hosts", "all"]).await.err().into_iter().collect();
        for host in &self.hosts {
            failures.extend(self.run(&["ns", "add-hosts", host]).await.err());
        }
        failures
    }

    /// The directory of its files below `-filepath`, for those sent and those received. minimega never removes it.
    pub fn files(&self) -> PathBuf {
        self.daemon.files.join(&self.name)
    }

    /// Held while the namespace's configuration is set and used.
    pub async fn configuring(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.configuring.lock().await
    }

    /// Runs a command in the namespace; minimega changes none of its words.
    ///
    /// # Errors
    /// As [`Daemon::run`], and [`MinimegaError::Unsendable`] for what this minimega would change, and once it was removed.
    pub async fn run<S: AsRef<str>>(&self, words: &[S]) -> Result<Answer, MinimegaError> {
        self.run_within(words, self.daemon.limits.answer).await
    }

    /// As [`Namespace::run`], with a limit for the answer.
    ///
    /// # Errors
    /// As [`Namespace::run`].
    pub async fn run_within<S: AsRef<str>>(&self, words: &[S], limit: Duration) -> Result<Answer, MinimegaError> {
        let mut line = vec!["namespace", &self.name];
        if self.daemon.preprocess {
            line.extend([".preprocess", "false"]);
        } else if let Some(word) = words.iter().map(AsRef::as_ref).find(|word| is_preprocessed(word)) {
            let why =
                "minimega would replace its variables or its URL, and this version cannot be told not to".to_owned();
            return Err(MinimegaError::Unsendable { word: shown(word), why });
        }
        line.extend(words.iter().map(AsRef::as_ref));
        let _here = self.here().await?;
        self.ask(&Line::of(line), limit).await
    }

    /// Asks all its hosts.
    async fn ask(&self, line: &Line, limit: Duration) -> Result<Answer, MinimegaError> {
        match self.others().next() {
            Some(_) => self.daemon.run_over_mesh(line, limit).await,
            None => self.daemon.run_within(line, limit).await,
        }
    }

    /// Its hosts but for the one that vptest runs on.
    fn others(&self) -> impl Iterator<Item = &String> {
        self.hosts.iter().filter(|host| **host != self.daemon.host)
    }

    /// Has another of its hosts not answered in time?
    pub(super) fn hangs(&self) -> bool {
        self.others().next().is_some() && self.daemon.mesh_hangs()
    }

    /// It stays as long as this is held.
    async fn here(&self) -> Result<tokio::sync::RwLockReadGuard<'_, ()>, MinimegaError> {
        let busy = self.busy.read().await;
        if !self.gone.load(Ordering::SeqCst) {
            return Ok(busy);
        }
        let why = "this namespace was removed, and minimega would make it anew".to_owned();
        Err(MinimegaError::Unsendable { word: self.name.clone(), why })
    }

    /// As [`Namespace::run`] for a question that is asked again and again: it stays out of minimega's history.
    ///
    /// # Errors
    /// As [`Namespace::run`].
    pub async fn poll(&self, words: &[&str]) -> Result<Answer, MinimegaError> {
        let mut line = vec!["namespace", &self.name];
        if self.daemon.record {
            line.extend([".record", "false"]);
        }
        line.extend(words);
        let _here = self.here().await?;
        self.ask(&Line::of(line), self.daemon.limits.answer).await
    }

    /// The rows of a table that is asked for again and again.
    ///
    /// # Errors
    /// As [`Namespace::run`], and [`MinimegaError::Answer`] without these columns.
    pub async fn rows(&self, words: &[&str], columns: &[&str]) -> Result<Vec<Row>, MinimegaError> {
        let answer = self.poll(words).await?;
        answer.table(columns).map_err(|garbled| MinimegaError::answer(&words.join(" "), garbled))
    }

    /// What is in a file of another host's, by its name below its `-filepath`; `None` where no host has one. What this host
    /// has under that name comes first.
    ///
    /// # Errors
    /// As [`Namespace::run`].
    pub(super) async fn stream(&self, name: &str) -> Result<Option<Vec<u8>>, MinimegaError> {
        let answer = match self.run(&["file", "stream", name]).await {
            Err(MinimegaError::Refused { text, .. }) if text.ends_with("file not found") => return Ok(None),
            other => other?,
        };
        let mut content = Vec::new();
        for part in answer.responses.iter().map(|response| &response.data).filter(|data| !data.is_null()) {
            let bytes = part.as_str().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
            let garbled = || MinimegaError::Answer {
                command: shown(&format!("file stream {name}")),
                text: "a part of it is no base64".to_owned(),
            };
            content.extend(bytes.ok_or_else(garbled)?);
        }
        Ok(Some(content))
    }

    /// From now on, nothing is sent to it any more: somebody else removes it.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    /// Removes the namespace with its machines, networks and captures, and its files. Goes on past failures and returns
    /// them; what was never there is no failure. One that this user has not made with vptest is left alone.
    pub async fn remove(&self) -> Vec<MinimegaError> {
        if !is_own(&self.name) {
            let why = "it is no namespace that this user has made with vptest, and is not removed".to_owned();
            return vec![MinimegaError::Unsendable { word: self.name.clone(), why }];
        }
        // One that minimega does not know any more would get all its hosts.
        let mut failures = self.pin_each().await;
        let all = machines(self).await.unwrap_or_else(|error| {
            failures.push(error);
            Vec::new()
        });
        // Numbers of machines on other hosts of a mesh say nothing about directories of this one.
        let failed_launches =
            all.iter().filter(|machine| machine.state == State::Error && machine.host == self.daemon.host);
        let failed_launches: Vec<u64> = failed_launches.map(|machine| machine.id).collect();
        let remains = afar::remains(&self.daemon, &all).await;
        for words in [["clear", "cc"], ["clear", "capture"]] {
            failures.extend(self.run(&words).await.err());
        }
        // Nobody else is at it then.
        let alone = self.busy.write().await;
        let cleared = self.clear().await;
        let is_gone = cleared.is_ok();
        self.gone.store(is_gone, Ordering::SeqCst);
        drop(alone);
        failures.extend(cleared.err());
        if failures.iter().any(MinimegaError::is_lost) {
            // A daemon that comes after it gives the same numbers to machines of others.
            return failures;
        }
        // minimega forgets machines whose launch failed, but leaves their directories. Their numbers are not used again.
        let left = failed_launches.iter().map(|id| self.daemon.base.join(id.to_string()));
        for directory in left.chain([self.files()]) {
            let removed = remove_directory(&directory).await;
            failures.extend(removed.map_err(MinimegaError::file(format!("remove {}", directory.display()))).err());
        }
        // Of what may still run, nothing is taken away.
        for remains in remains.into_iter().filter(|_| is_gone) {
            failures.extend(remains.remove(&self.daemon).await);
        }
        // Its files. minimega tells all hosts of the mesh the names of its networks, whereupon they make a directory; those that
        // have no part in it are not asked all the same, since one that hangs would stop minimega's mesh for everybody.
        for host in self.others() {
            // A host without them says nothing about it.
            failures.extend(self.daemon.run_at(host, &["file", "delete", &self.name]).await.err());
        }
        failures
    }

    /// `clear namespace`, again and again while a launch is under way: until that has succeeded or failed, minimega refuses.
    async fn clear(&self) -> Result<(), MinimegaError> {
        let deadline = tokio::time::Instant::now() + SETTLE;
        loop {
            match self.ask(&Line::of(["clear", "namespace", &self.name]), CLEAR).await {
                Err(MinimegaError::Refused { text, .. })
                    if text.contains("scheduler still running") && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => return other.map(drop),
            }
        }
    }
}

/// Removes a directory that may not be there. What a client said last may be written just now.
async fn remove_directory(directory: &Path) -> std::io::Result<()> {
    let deadline = tokio::time::Instant::now() + LAST_WORDS;
    loop {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == std::io::ErrorKind::DirectoryNotEmpty && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whose_a_namespace_is() {
        let (here, there) = (Owner::of(Path::new("/here")), Owner::of(Path::new("/there")));
        let name = here.fresh_name();
        assert!(is_name(&name) && is_own(&name) && here.owns(&name), "{name}");
        assert!(!there.owns(&name), "another campaign");
        let theirs = Owner { uid: here.uid + 1, ..here };
        assert!(!theirs.owns(&name) && !is_own(&theirs.fresh_name()), "another user");
        for foreign in ["vptest", "minimega", "exp1", "vptest-1", "vptest-0-1-00000000", "vptest-0-000000000000-zz"] {
            assert!(!is_own(foreign) && !here.owns(foreign), "{foreign}");
        }
        assert!(!here.owns(&format!("{name}-x")));
    }

    /// A daemon on kn1 that answers for itself and never for another host.
    fn deaf(place: &Path) -> PathBuf {
        use std::io::{BufReader, Write as _};
        let socket = place.join("minimega");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let requests = serde_json::Deserializer::from_reader(BufReader::new(stream.try_clone().unwrap()));
                for request in requests.into_iter::<serde_json::Value>().map_while(Result::ok) {
                    let command = request["Command"].as_str().unwrap_or_default();
                    let (text, error) = match command {
                        "version" => ("minimega 3.1.0 x 2026-01-01", ""),
                        line if line.contains(" ns ") => ("", ""),
                        line if line.contains("vptest-") => continue,
                        _ => ("", "invalid command: `x`"),
                    };
                    let response = serde_json::json!({ "Host": "kn1", "Response": text, "Header": null, "Tabular": null,
                        "Error": error, "Data": null });
                    let answer =
                        serde_json::json!({ "Resp": [response], "Rendered": "", "More": false, "Status": false });
                    if writeln!(stream, "{answer}").is_err() {
                        break;
                    }
                }
            }
        });
        socket
    }

    /// Everything would otherwise take its usual limit, one after the other.
    #[tokio::test]
    async fn after_a_host_that_hangs_the_rest_is_hurried() {
        let place = tempfile::tempdir().unwrap();
        let (answer, hurry) = (Duration::from_millis(300), Duration::from_millis(20));
        let limits = Limits { answer, hurry, ..Limits::default() };
        let daemon = Daemon::open(&deaf(place.path()), limits).await.unwrap();
        let name = Owner::of(Path::new("/here")).fresh_name();
        let namespace = daemon.namespace(&name).unwrap().on(&["kn2".to_owned()]);
        let failures = namespace.remove().await;
        let limits: Vec<Duration> = failures
            .iter()
            .map(|failure| match failure {
                MinimegaError::TimedOut { limit, .. } => *limit,
                other => panic!("{other}"),
            })
            .collect();
        // What machines there are, clearing cc and captures, the namespace, its files.
        assert_eq!(limits, [answer, hurry, hurry, hurry, hurry], "{failures:?}");
        assert!(daemon.mesh_hangs());
        // Of what is on its own host it thinks as before.
        let here = daemon.namespace(&name).unwrap().on(&["kn1".to_owned()]);
        let error = here.run(&["vm", "info"]).await.unwrap_err();
        assert!(matches!(error, MinimegaError::TimedOut { limit, .. } if limit == answer), "{error}");
    }
}
