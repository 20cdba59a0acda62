//! rond: the head of physical nodes that run miniccc.
//!
//! It speaks as minimega does, with these differences: it closes the connection at a command that it cannot parse, it does
//! not say the numbers of the commands it is given, and its answers have no `Status`. Its table `responses` fails as soon
//! as a file was received; the files are read instead.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::cc::{GUEST_FILES, Head, Member, Order};
use super::error::MinimegaError;
use super::hold::chain;
use super::line::Line;
use super::socket::{Limits, Peer, Socket};
use super::wire::{Answer, Dialect, Row};
use crate::agent::mailbox::RING;

/// Where rond puts its socket when it is not told otherwise. It has one only with `-nostdin`.
pub const DEFAULT_SOCKET: &str = "/tmp/rond/rond";
/// Directory of vptest's files below rond's.
const OUTGOING: &str = "vptest";
/// Orders after which its table is cleared when that can be.
const MANY: usize = 1000;
/// Between two attempts at the lock, and how long somebody else may have it: orders take milliseconds.
const LOCK_PACE: Duration = Duration::from_millis(1);
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// How long nodes may take to answer what they have done, and between two looks.
const ANSWERED: Duration = Duration::from_secs(8);
const ANSWER_PACE: Duration = Duration::from_millis(250);
/// Answers of that age get no more files: a heartbeat and more.
const SETTLED: Duration = Duration::from_secs(12);

/// A node that has reported to rond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RondClient {
    /// Its machine's product_uuid. Two nodes with the same one show as one.
    pub uuid: String,
    /// What it calls itself.
    pub hostname: String,
}

/// A rond that answers; clones are the same one. Its commands are numbered by how many there are, so that only one at a time is
/// given.
#[derive(Debug, Clone)]
pub struct Rond {
    path: PathBuf,
    /// Its directory (`-path`).
    base: PathBuf,
    limits: Limits,
    peer: Peer,
    socket: Arc<Mutex<Option<Socket>>>,
    /// Orders given since its table was cleared.
    given: Arc<AtomicUsize>,
}

impl Rond {
    /// Connects and lists clients and commands: questions that change nothing and that every rond can parse.
    ///
    /// # Errors
    /// [`MinimegaError::Connect`], and what a command can have.
    pub async fn open(socket: &Path, limits: Limits) -> Result<Self, MinimegaError> {
        let first = Socket::connect(socket, Dialect::Rond, limits).await?;
        let rond = Self {
            path: socket.to_owned(),
            base: socket.parent().unwrap_or(Path::new("/")).to_owned(),
            limits,
            peer: first.peer(),
            socket: Arc::new(Mutex::new(Some(first))),
            given: Arc::default(),
        };
        rond.nodes().await?;
        let there = rond.numbers(&mut *rond.socket.lock().await).await?;
        rond.given.store(there.len(), Ordering::Relaxed);
        Ok(rond)
    }

    /// The nodes that have reported.
    ///
    /// # Errors
    /// As [`super::Daemon::run`].
    pub async fn nodes(&self) -> Result<Vec<RondClient>, MinimegaError> {
        let mut socket = self.socket.lock().await;
        let rows = self.rows(&mut socket, "clients", &["UUID", "hostname"]).await?;
        // They become parts of paths, and nobody has checked them before.
        let is_plain = |uuid: &str| {
            (1..=64).contains(&uuid.len()) && uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let rows: Vec<Row> = rows.into_iter().filter(|row| is_plain(row.field("UUID"))).collect();
        let client =
            |row: &Row| RondClient { uuid: row.field("UUID").to_owned(), hostname: row.field("hostname").to_owned() };
        Ok(rows.iter().map(client).collect())
    }

    /// The nodes that call themselves so.
    ///
    /// # Errors
    /// [`MinimegaError::NoClient`] with those that have not reported, [`MinimegaError::Ambiguous`], and as [`super::Daemon::run`].
    pub async fn members(&self, hosts: &[String]) -> Result<Vec<Member>, MinimegaError> {
        let nodes = self.nodes().await?;
        for host in hosts {
            let count = nodes.iter().filter(|node| node.hostname == *host).count();
            if count > 1 {
                return Err(MinimegaError::Ambiguous { host: host.clone(), count });
            }
        }
        let find = |host: &String| nodes.iter().find(|node| node.hostname == *host);
        let missing: Vec<String> = hosts.iter().filter(|host| find(host).is_none()).cloned().collect();
        if !missing.is_empty() {
            return Err(MinimegaError::NoClient { missing, waited: Duration::ZERO });
        }
        let member = |host: &String| {
            let node = find(host)?;
            Some(Member { node: host.clone(), uuid: node.uuid.clone(), files: GUEST_FILES.to_owned() })
        };
        Ok(hosts.iter().filter_map(member).collect())
    }

    async fn ask(&self, slot: &mut Option<Socket>, words: &[&str]) -> Result<Answer, MinimegaError> {
        let mut socket = match slot.take() {
            Some(socket) if !socket.is_worn() => socket,
            _ => Socket::connect(&self.path, Dialect::Rond, self.limits).await?,
        };
        if socket.peer() != self.peer {
            return Err(MinimegaError::Restarted { socket: self.path.clone() });
        }
        let result = socket.ask(&Line::of(words), self.limits.answer).await;
        if matches!(result, Ok(_) | Err(MinimegaError::Refused { .. })) {
            *slot = Some(socket);
        }
        result
    }

    async fn rows(
        &self,
        slot: &mut Option<Socket>,
        command: &str,
        columns: &[&str],
    ) -> Result<Vec<Row>, MinimegaError> {
        let answer = self.ask(slot, &[command]).await?;
        answer.table(columns).map_err(|garbled| MinimegaError::answer(command, garbled))
    }

    /// Numbers of all commands there are. The table is in no order.
    async fn numbers(&self, slot: &mut Option<Socket>) -> Result<Vec<u64>, MinimegaError> {
        let rows = self.rows(slot, "commands", &["id"]).await?;
        let number = |row: &Row| {
            let text = format!("id = `{}`", crate::text::printable(row.field("id"), 40));
            row.field("id").parse().map_err(|_| MinimegaError::Answer { command: "commands".to_owned(), text })
        };
        rows.iter().map(number).collect()
    }

    async fn order(&self, slot: &mut Option<Socket>, order: &Order) -> Result<(), MinimegaError> {
        let answer = match order {
            Order::Send(name) => self.ask(slot, &["send", &format!("{OUTGOING}/{name}")]).await,
            Order::Receive(path) => self.ask(slot, &["recv", path]).await,
            Order::Run(argv) => {
                let words: Vec<&str> = std::iter::once("exec-once").chain(argv.iter().map(String::as_str)).collect();
                self.ask(slot, &words).await
            }
        };
        answer.map(drop)
    }
}

#[async_trait]
impl Head for Rond {
    fn outgoing(&self) -> (PathBuf, String) {
        (self.base.join(OUTGOING), OUTGOING.to_owned())
    }

    fn responses(&self) -> PathBuf {
        self.base.join("miniccc_responses")
    }

    async fn clients(&self) -> Result<Vec<String>, MinimegaError> {
        Ok(self.nodes().await?.into_iter().map(|node| node.uuid).collect())
    }

    /// The numbers are those that are new after each order; somebody else's between them would not be told apart.
    async fn post(&self, uuid: &str, orders: &[Order]) -> Result<Vec<u64>, MinimegaError> {
        Ok(self.filtered(uuid, orders, Numbers::Wanted).await?.unwrap_or_default())
    }

    /// Its table of commands is long when many letters were carried, and is not read for each of them.
    async fn hand_over(&self, uuid: &str, orders: &[Order]) -> Result<Option<Vec<u64>>, MinimegaError> {
        self.filtered(uuid, orders, Numbers::Unknown).await
    }

    async fn sweep(&self) -> bool {
        self.remove_rings(SETTLED);
        self.given.load(Ordering::Relaxed) >= MANY
    }

    async fn clear(&self) -> Result<(), MinimegaError> {
        // Nodes answer with their next heartbeat.
        let deadline = Instant::now() + ANSWERED;
        let mut cleared = self.clear_commands().await?;
        while cleared == Cleared::NotYet && Instant::now() < deadline {
            tokio::time::sleep(ANSWER_PACE).await;
            cleared = self.clear_commands().await?;
        }
        self.given.store(0, Ordering::Relaxed);
        // The files of an answer follow the counter.
        tokio::time::sleep(ANSWER_PACE).await;
        self.remove_rings(if cleared == Cleared::All { Duration::ZERO } else { SETTLED });
        Ok(())
    }
}

/// How clearing the table of commands went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleared {
    All,
    /// Nodes still have to answer.
    NotYet,
    /// Somebody else's commands are there.
    Never,
}

/// Are the numbers of orders to be known?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Wanted,
    Unknown,
}

impl Rond {
    /// Gives one node orders, under a filter that is put back also when whoever waits for it has had enough.
    async fn filtered(
        &self,
        uuid: &str,
        orders: &[Order],
        numbers: Numbers,
    ) -> Result<Option<Vec<u64>>, MinimegaError> {
        let (rond, uuid, orders) = (self.clone(), uuid.to_owned(), orders.to_owned());
        let given = tokio::spawn(async move { rond.filtered_to_the_end(&uuid, &orders, numbers).await }).await;
        given.map_err(|error| MinimegaError::file("give orders to rond")(error.into()))?
    }

    async fn filtered_to_the_end(
        &self,
        uuid: &str,
        orders: &[Order],
        numbers: Numbers,
    ) -> Result<Option<Vec<u64>>, MinimegaError> {
        let mut slot = self.socket.lock().await;
        let _turn = self.turn().await?;
        let before = self.filter(&mut slot).await?;
        let posted = match numbers {
            Numbers::Wanted => self.post_filtered(&mut slot, uuid, orders).await.map(Some),
            Numbers::Unknown => self.give(&mut slot, uuid, orders).await.map(|()| None),
        };
        self.given.fetch_add(orders.len(), Ordering::Relaxed);
        // Also after an error: the filter is rond's, and decides about commands of others.
        let back = match &before {
            Some(filter) => self.ask(&mut slot, &["filter", filter]).await,
            None => self.ask(&mut slot, &["clear", "filter"]).await,
        };
        let ids = posted?;
        back?;
        Ok(ids)
    }

    async fn give(&self, slot: &mut Option<Socket>, uuid: &str, orders: &[Order]) -> Result<(), MinimegaError> {
        self.ask(slot, &["filter", &format!("uuid={uuid}")]).await?;
        for order in orders {
            self.order(slot, order).await?;
        }
        Ok(())
    }

    /// Filter and numbers are rond's: while one vptest uses them, no other one may.
    async fn turn(&self) -> Result<File, MinimegaError> {
        let directory = self.base.join(OUTGOING);
        let path = directory.join("lock");
        let failed = || MinimegaError::file(format!("lock {}", path.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed())?;
        let file = File::options().create(true).append(true).open(&path).map_err(failed())?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::WouldBlock) if begun.elapsed() < LOCK_WAIT => {
                    tokio::time::sleep(LOCK_PACE).await;
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    let text = format!("another process has had it for {LOCK_WAIT:?}");
                    return Err(failed()(std::io::Error::new(std::io::ErrorKind::TimedOut, text)));
                }
                Err(std::fs::TryLockError::Error(error)) => return Err(failed()(error)),
            }
        }
    }

    /// Clears the table of commands, which each new one makes rond go through: not while anything else is in it than orders
    /// of vptests that were answered.
    async fn clear_commands(&self) -> Result<Cleared, MinimegaError> {
        let mut slot = self.socket.lock().await;
        let _turn = self.turn().await?;
        let columns = ["command", "sent", "received", "responses", "filter"];
        let rows = self.rows(&mut slot, "commands", &columns).await?;
        if !rows.iter().all(|row| is_ours(["command", "sent", "received"].map(|column| row.field(column)))) {
            tracing::debug!("commands of others are among those of {}: none are cleared", self.path.display());
            return Ok(Cleared::Never);
        }
        let clients: Vec<String> =
            self.rows(&mut slot, "clients", &["UUID"]).await?.iter().map(|row| row.field("UUID").to_owned()).collect();
        if rows.iter().any(|row| is_awaited(row, &clients)) {
            return Ok(Cleared::NotYet);
        }
        self.ask(&mut slot, &["clear", "commands"]).await?;
        Ok(Cleared::All)
    }

    /// Removes the outputs of the commands that wait for letters: they come with a heartbeat, when nobody looks any more.
    fn remove_rings(&self, settled: Duration) {
        let responses = self.responses();
        let Ok(numbers) = std::fs::read_dir(&responses) else { return };
        let clients = numbers.flatten().filter_map(|number| std::fs::read_dir(number.path()).ok()).flatten().flatten();
        for client in clients {
            let path = client.path();
            let is_old = client.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
            if is_old.is_some_and(|age| age >= settled) {
                remove_ring(&path);
            }
            if let Some(number) = path.parent() {
                // Only what is empty goes.
                let _ = std::fs::remove_dir(number);
            }
        }
    }

    async fn post_filtered(
        &self,
        slot: &mut Option<Socket>,
        uuid: &str,
        orders: &[Order],
    ) -> Result<Vec<u64>, MinimegaError> {
        let mut last = self.numbers(slot).await?.into_iter().max().unwrap_or(0);
        self.ask(slot, &["filter", &format!("uuid={uuid}")]).await?;
        let mut ids = Vec::new();
        for order in orders {
            self.order(slot, order).await?;
            let new: Vec<u64> = self.numbers(slot).await?.into_iter().filter(|id| *id > last).collect();
            let [id] = new.as_slice() else {
                let text = format!("{} commands are new and not one: somebody else uses this rond", new.len());
                return Err(MinimegaError::Answer { command: "commands".to_owned(), text });
            };
            last = *id;
            ids.push(last);
        }
        Ok(ids)
    }

    /// The filter that somebody has set, as it is set; `None` for none.
    async fn filter(&self, slot: &mut Option<Socket>) -> Result<Option<String>, MinimegaError> {
        let answer = self.ask(slot, &["filter"]).await?;
        filter_of(answer.text()).map_err(|text| MinimegaError::Answer { command: "filter".to_owned(), text })
    }
}

/// Which nodes have reported to the rond at the usual socket.
///
/// # Errors
/// Why it cannot be used, in words.
pub async fn look() -> Result<String, String> {
    let rond = Rond::open(Path::new(DEFAULT_SOCKET), Limits::default()).await.map_err(|error| chain(&error))?;
    let mut names: Vec<String> = rond.nodes().await.map_err(|error| chain(&error))?.into_iter().map(name_of).collect();
    names.sort();
    let names = if names.is_empty() { "no nodes yet".to_owned() } else { names.join(", ") };
    Ok(format!("at {DEFAULT_SOCKET}: {names}"))
}

fn name_of(node: RondClient) -> String {
    crate::text::printable(&node.hostname, 64)
}

/// Is this order one of a vptest's? It sends `[vptest/NAME]`, receives `[…/vptest/NUMBER.d/…]` or `[…/vptest/box-NUMBER/…]`, and
/// runs `[timeout … sh …/vptest/NUMBER.sh]` or `[sh …/vptest/box-NUMBER/wait …]`.
fn is_ours(columns: [&str; 3]) -> bool {
    let [run, sent, received] = columns.map(|text| {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        inner.split_ascii_whitespace().collect::<Vec<_>>()
    });
    match (run.as_slice(), sent.as_slice(), received.as_slice()) {
        ([], [name], []) => name.strip_prefix(OUTGOING).is_some_and(|rest| rest.starts_with('/')),
        ([], [], [path]) => own_name(path).is_some_and(|(number, rest)| {
            (number.starts_with("box-") || number.ends_with(".d")) && rest.is_some_and(|rest| !rest.contains('/'))
        }),
        (["timeout", "-k", _, _, "sh", path], [], []) => {
            own_name(path).is_some_and(|(name, rest)| name.ends_with(".sh") && rest.is_none())
        }
        (["sh", path, _, _], [], []) => {
            own_name(path).is_some_and(|(name, rest)| name.starts_with("box-") && rest == Some("wait"))
        }
        _ => false,
    }
}

/// What follows `/vptest/` in a path that is one of a vptest's by its number of 16 digits, in two parts.
fn own_name(path: &str) -> Option<(&str, Option<&str>)> {
    let (_, below) = path.rsplit_once(&format!("/{OUTGOING}/"))?;
    let (name, rest) = below.split_once('/').map_or((below, None), |(name, rest)| (name, Some(rest)));
    let number = name.strip_prefix("box-").or_else(|| name.strip_suffix(".d")).or_else(|| name.strip_suffix(".sh"))?;
    (number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some((name, rest))
}

/// Is a node still to answer this order? One that has gone answers nothing any more.
fn is_awaited(row: &Row, clients: &[String]) -> bool {
    let gone = row.field("filter").strip_prefix("uuid=").is_some_and(|uuid| !clients.iter().any(|one| one == uuid));
    row.field("responses") == "0" && !gone
}

/// Removes the directory of a client's answer to a command that waited for a letter, and of one that had nothing to say.
fn remove_ring(answer: &Path) {
    let mut beginning = [0; RING.len()];
    let output = answer.join("stdout");
    let read = File::open(&output).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut beginning));
    if read.is_ok() && beginning == RING.as_bytes() {
        let _ = std::fs::remove_file(output);
        let _ = std::fs::remove_file(answer.join("exitcode"));
    }
    let _ = std::fs::remove_dir(answer);
}

/// Reads `(*ron.Filter)(nil)` and `&ron.Filter{UUID:"", Hostname:"p1", …}`.
fn filter_of(text: &str) -> Result<Option<String>, String> {
    if text == "(*ron.Filter)(nil)" {
        return Ok(None);
    }
    let unknown = || format!("it is `{}`, which could not be put back", crate::text::printable(text, 200));
    let inner = text.strip_prefix("&ron.Filter{").ok_or_else(unknown)?;
    let mut set = Vec::new();
    for name in ["UUID", "Hostname", "Arch", "OS", "MAC", "IP"] {
        let (_, rest) = inner.split_once(&format!("{name}:\"")).ok_or_else(unknown)?;
        let (value, _) = rest.split_once('"').ok_or_else(unknown)?;
        if value.contains('\\') {
            return Err(unknown());
        }
        if !value.is_empty() {
            set.push(format!("{}={value}", name.to_lowercase()));
        }
    }
    match set.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_they_are_set() {
        let with = |part: &str| {
            let all = "&ron.Filter{UUID:\"\", Hostname:\"\", Arch:\"\", OS:\"\", MAC:\"\", IP:\"\", Tags:map[string]string(nil)}";
            let (name, _) = part.split_once(':').unwrap();
            filter_of(&all.replace(&format!("{name}:\"\""), part))
        };
        assert_eq!(filter_of("(*ron.Filter)(nil)"), Ok(None));
        assert_eq!(with("Hostname:\"p1\""), Ok(Some("hostname=p1".to_owned())));
        assert_eq!(with("IP:\"10.9.0.0/24\""), Ok(Some("ip=10.9.0.0/24".to_owned())));
        assert_eq!(with("OS:\"\""), Ok(None));
        assert!(with("OS:\"a\\\"b\"").is_err() && filter_of("something new").is_err());
    }

    #[test]
    fn orders_of_a_vptest_are_told_from_those_of_others() {
        for ours in [
            ["[]", "[vptest/0123456789abcdef.t1]", "[]"],
            ["[timeout -k 5 65 sh /tmp/miniccc/files/vptest/0123456789abcdef.sh]", "[]", "[]"],
            ["[sh /f/vptest/box-0123456789abcdef/wait /f/vptest/box-0123456789abcdef 7]", "[]", "[]"],
            ["[]", "[]", "[/f/vptest/box-0123456789abcdef/out.7]"],
            ["[]", "[]", "[/f/vptest/0123456789abcdef.d/files.tar]"],
        ] {
            assert!(is_ours(ours), "{ours:?}");
        }
        for theirs in [
            ["[]", "[other/vptest/a]", "[]"],
            ["[ls /home/me/vptest/src]", "[]", "[]"],
            ["[sh /home/me/vptest/run.sh]", "[]", "[]"],
            ["[]", "[]", "[/home/me/vptest/results.d/x]"],
            ["[uptime]", "[]", "[]"],
            ["[]", "[]", "[]"],
        ] {
            assert!(!is_ours(theirs), "{theirs:?}");
        }
    }
}
