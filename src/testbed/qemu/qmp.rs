//! QEMU's machine protocol (QMP, `docs/interop/qmp-spec`): commands, their answers, and what QEMU tells by itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::oneshot;

/// A longer line than any answer that is asked for here.
const LONGEST_LINE: u64 = 4 << 20;
/// Events that are kept, the latest.
const EVENTS: usize = 64;
/// How long QEMU may take for an answer. It gives them between two slices of guest code, also under TCG.
const PATIENCE: Duration = Duration::from_secs(10);

/// A conversation with one QEMU. Dropping it ends the conversation, not QEMU.
pub(super) struct Qmp {
    writer: tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>,
    shared: Arc<Shared>,
    reader: tokio::task::JoinHandle<()>,
}

/// What came of one command.
type Answer = Result<Value, QmpError>;

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    events: VecDeque<Event>,
    ended: bool,
}

/// Something QEMU tells by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    /// `SHUTDOWN`, `GUEST_PANICKED`, …
    pub(super) name: String,
    /// What belongs to it; `Null` for nothing.
    pub(super) data: Value,
}

/// A command had no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    /// QEMU refused it.
    #[error("QEMU refused `{command}`: {reason}")]
    Refused {
        /// Which.
        command: String,
        /// In QEMU's words.
        reason: String,
    },
    /// QEMU is gone, or does not speak QMP.
    #[error("no answer from QEMU: {0}")]
    Lost(String),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Qmp {
    /// Reads the greeting and enters command mode.
    ///
    /// # Errors
    /// [`QmpError::Lost`] when the other side is no QEMU or does not answer within ten seconds.
    pub(super) async fn start<R, W>(read: R, write: W) -> Result<Self, QmpError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let mut reader = BufReader::new(read);
        let greeting = tokio::time::timeout(PATIENCE, read_message(&mut reader)).await;
        let greeting = greeting.map_err(|_| QmpError::Lost("no greeting".to_owned()))??;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Lost("its first words are no greeting".to_owned()));
        }
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(read_all(reader, Arc::clone(&shared)));
        let qmp = Self { writer: tokio::sync::Mutex::new(Box::new(write)), shared, reader: task };
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Runs a command; `Null` for no arguments.
    pub(super) async fn execute(&self, command: &str, arguments: Value) -> Answer {
        let (sender, answer) = oneshot::channel();
        let id = self.shared.expect(sender)?;
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let lost = |error: std::io::Error| QmpError::Lost(error.to_string());
        let mut line = message.to_string();
        line.push('\n');
        let exchange = async {
            let mut writer = self.writer.lock().await;
            writer.write_all(line.as_bytes()).await.map_err(lost)?;
            writer.flush().await.map_err(lost)?;
            drop(writer);
            answer.await.unwrap_or_else(|_| Err(ended()))
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await;
        let answer = answer.unwrap_or_else(|_| Err(QmpError::Lost(format!("`{command}` took too long"))));
        self.shared.lock().waiting.remove(&id);
        match answer {
            Err(QmpError::Refused { reason, .. }) => Err(QmpError::Refused { command: command.to_owned(), reason }),
            other => other,
        }
    }

    /// What QEMU has told so far: the latest 64, in their order.
    pub(super) fn events(&self) -> Vec<Event> {
        self.shared.lock().events.iter().cloned().collect()
    }

    /// Thread numbers of the virtual CPUs, in the order of the CPUs.
    pub(super) async fn cpu_threads(&self) -> Result<Vec<i32>, QmpError> {
        let answer = self.execute("query-cpus-fast", Value::Null).await?;
        threads(&answer).ok_or_else(|| QmpError::Lost("`query-cpus-fast` names no threads".to_owned()))
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Shared {
    /// Notes that an answer is expected, and gives the number it will carry.
    fn expect(&self, sender: oneshot::Sender<Answer>) -> Result<u64, QmpError> {
        let mut state = self.lock();
        if state.ended {
            return Err(ended());
        }
        state.next += 1;
        let id = state.next;
        state.waiting.insert(id, sender);
        Ok(id)
    }

    fn take(&self, message: Value) {
        let mut state = self.lock();
        if let Some(name) = message["event"].as_str() {
            if state.events.len() == EVENTS {
                state.events.pop_front();
            }
            state.events.push_back(Event { name: name.to_owned(), data: message["data"].clone() });
            return;
        }
        let Some(sender) = message["id"].as_u64().and_then(|id| state.waiting.remove(&id)) else { return };
        let answer = match message.get("error") {
            Some(error) => Err(QmpError::Refused {
                command: String::new(),
                reason: error["desc"].as_str().unwrap_or("no reason given").to_owned(),
            }),
            None => Ok(message["return"].clone()),
        };
        // Nobody waits any more for a command that was given up.
        let _ = sender.send(answer);
    }
}

fn ended() -> QmpError {
    QmpError::Lost("the conversation has ended".to_owned())
}

async fn read_all<R: AsyncRead + Unpin>(mut reader: BufReader<R>, shared: Arc<Shared>) {
    while let Ok(message) = read_message(&mut reader).await {
        shared.take(message);
    }
    let mut state = shared.lock();
    state.ended = true;
    // Those who wait see that their sender is gone.
    state.waiting.clear();
}

async fn read_message<R: AsyncRead + Unpin>(reader: &mut BufReader<R>) -> Result<Value, QmpError> {
    let mut line = Vec::new();
    let read = reader.take(LONGEST_LINE).read_until(b'\n', &mut line).await;
    read.map_err(|error| QmpError::Lost(error.to_string()))?;
    if line.last() != Some(&b'\n') {
        return Err(ended());
    }
    serde_json::from_slice(&line).map_err(|error| QmpError::Lost(error.to_string()))
}

fn threads(answer: &Value) -> Option<Vec<i32>> {
    let mut cpus = answer
        .as_array()?
        .iter()
        .map(|cpu| Some((cpu["cpu-index"].as_u64()?, i32::try_from(cpu["thread-id"].as_i64()?).ok()?)))
        .collect::<Option<Vec<_>>>()?;
    cpus.sort_unstable();
    Some(cpus.into_iter().map(|(_, thread)| thread).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": []}}"#;

    /// A QEMU that gives these answers to the commands after `qmp_capabilities`, line by line, and then goes.
    async fn with_answers(answers: &[&str]) -> Qmp {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        tokio::spawn(async move {
            let (read, mut write) = tokio::io::split(theirs);
            let mut lines = BufReader::new(read).lines();
            write.write_all(format!("{GREETING}\r\n").as_bytes()).await.unwrap();
            lines.next_line().await.unwrap();
            write.write_all(b"{\"return\": {}, \"id\": 1}\r\n").await.unwrap();
            for answer in answers {
                lines.next_line().await.unwrap();
                write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
            }
        });
        let (read, write) = tokio::io::split(ours);
        Qmp::start(read, write).await.unwrap()
    }

    #[tokio::test]
    async fn answers_find_their_commands_and_events_are_kept() {
        let cpus = r#"{"event": "RESUME", "timestamp": {}}
{"return": [{"cpu-index": 1, "thread-id": 12}, {"cpu-index": 0, "thread-id": 11}], "id": 2}"#;
        let qmp = with_answers(&[cpus]).await;
        assert_eq!(qmp.cpu_threads().await.unwrap(), [11, 12]);
        assert_eq!(qmp.events(), [Event { name: "RESUME".to_owned(), data: Value::Null }]);
    }

    #[tokio::test]
    async fn a_refusal_and_an_end_are_told_apart() {
        let refusal = r#"{"error": {"class": "CommandNotFound", "desc": "no such command"}, "id": 2}"#;
        let qmp = with_answers(&[refusal]).await;
        let error = qmp.execute("fly", Value::Null).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused `fly`: no such command");
        let error = qmp.execute("quit", Value::Null).await.unwrap_err();
        assert!(matches!(error, QmpError::Lost(_)), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_qemu_is_no_conversation() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"{\"hello\": 1}\n").await.unwrap();
        let (read, write) = tokio::io::split(ours);
        assert!(matches!(Qmp::start(read, write).await, Err(QmpError::Lost(_))));
    }
}
