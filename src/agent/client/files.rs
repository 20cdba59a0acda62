//! Files, both ways.

use std::io;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::super::error::AgentError;
use super::super::message::{Failure, FailureKind, Outcome, Receipt, Request};
use super::super::mux::{Chunk, Inbox, Item, Outbox};
use super::{Client, outcome, strange};

/// Bytes that [`Client::read_files`] returns at the most, all files together.
const MAX_FILES: u64 = 256 << 20;

impl Client {
    /// Writes a file of `size` bytes with these permissions. It is there whole, or not at all: written beside, its length and
    /// checksum compared, renamed.
    ///
    /// # Errors
    /// [`AgentError::Failed`] with `NoSpace` when the node's disk is full; [`AgentError::Here`] when `content` fails or has
    /// not `size` bytes.
    pub async fn put(
        &self,
        path: &str,
        mode: u32,
        size: u64,
        content: impl AsyncRead + Send,
    ) -> Result<Receipt, AgentError> {
        let (mut inbox, outbox) = self.call(&Request::Put { path: path.to_owned(), mode, size }).await?;
        // The node may refuse before everything is sent.
        let receipt = tokio::select! {
            biased;
            early = end(&mut inbox) => early.ok_or_else(|| self.over())?,
            sent = send(path, size, content, &outbox) => {
                let sent = sent?;
                let payload = end(&mut inbox).await.ok_or_else(|| self.over())?;
                return received(path, &payload, size, &sent);
            }
        };
        // Without a failure this is the answer to a file of which nothing had to be sent.
        Err(strange("put", &outcome("put", &receipt)?))
    }

    /// Reads a file of at most `limit` bytes into `sink`. What the sink got counts only when this returns a receipt.
    ///
    /// # Errors
    /// [`AgentError::Failed`] with `TooLarge` or `NotFound`; [`AgentError::Checksum`]; [`AgentError::Here`] when the sink
    /// fails.
    pub async fn get(&self, path: &str, limit: u64, sink: impl AsyncWrite + Send) -> Result<Receipt, AgentError> {
        let (mut inbox, _outbox) = self.call(&Request::Get { path: path.to_owned(), limit }).await?;
        let mut sink = Box::pin(sink);
        let failed = |source| AgentError::Here { what: format!("write what {path} holds"), source };
        let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
        loop {
            match inbox.next().await {
                Some(Item::Data(0, chunk)) => {
                    bytes += chunk.len() as u64;
                    if bytes > limit {
                        return Err(too_large(path, limit));
                    }
                    hash.update(&chunk);
                    sink.write_all(&chunk).await.map_err(failed)?;
                }
                Some(Item::Done(payload)) => {
                    sink.flush().await.map_err(failed)?;
                    return received(path, &payload, bytes, &hex(hash)).map_err(swap);
                }
                Some(_) => {}
                None => return Err(self.over()),
            }
        }
    }

    /// Reads small files, those of `/proc` and `/sys` included, all in one moment; `None` for one that cannot be read.
    ///
    /// # Errors
    /// When one of them is longer than `limit`.
    pub async fn read_files(&self, paths: &[String], limit: u64) -> Result<Vec<Option<Vec<u8>>>, AgentError> {
        let (mut inbox, _outbox, _asking) = self.question(&Request::ReadFiles { paths: paths.to_vec(), limit }).await?;
        let mut all = Vec::new();
        loop {
            match inbox.next().await {
                Some(Item::Data(0, chunk)) => {
                    if (all.len() + chunk.len()) as u64 > MAX_FILES {
                        return Err(too_large("the files together", MAX_FILES));
                    }
                    all.extend(chunk);
                }
                Some(Item::Done(payload)) => {
                    let Outcome::Done = outcome("read_files", &payload)? else {
                        return Err(AgentError::Answer { request: "read_files", text: "no end".to_owned() });
                    };
                    let short = || AgentError::Answer { request: "read_files", text: "cut short".to_owned() };
                    return split(&all, paths.len()).ok_or_else(short);
                }
                Some(_) => {}
                None => return Err(self.over()),
            }
        }
    }
}

/// Files one after the other: 1 and the length (`u64`) before the content, or 0.
fn split(mut all: &[u8], count: usize) -> Option<Vec<Option<Vec<u8>>>> {
    let mut files = Vec::with_capacity(count);
    for _ in 0..count {
        let (&there, rest) = all.split_first()?;
        all = rest;
        files.push(if there == 0 {
            None
        } else {
            let (length, rest) = all.split_first_chunk::<8>()?;
            let (content, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
            all = rest;
            Some(content.to_vec())
        });
    }
    all.is_empty().then_some(files)
}

/// The end of a call that sends nothing else.
async fn end(inbox: &mut Inbox) -> Option<Vec<u8>> {
    loop {
        if let Item::Done(payload) = inbox.next().await? {
            return Some(payload);
        }
    }
}

/// Sends the content and its checksum, which it returns.
async fn send(path: &str, size: u64, content: impl AsyncRead, outbox: &Outbox) -> Result<String, AgentError> {
    let here = |source| AgentError::Here { what: format!("read what becomes {path}"), source };
    let mut content = std::pin::pin!(content);
    let (mut hash, mut sent) = (Sha256::new(), 0_u64);
    loop {
        let mut chunk = Chunk::room();
        let mut filled = 0;
        while filled < chunk.bytes().len() {
            match content.read(&mut chunk.bytes_mut()[filled..]).await.map_err(here)? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        chunk.truncate(filled);
        sent += filled as u64;
        if sent > size {
            break;
        }
        hash.update(chunk.bytes());
        outbox.data(0, chunk).await?;
    }
    if sent != size {
        let text = format!(
            "it has {} bytes, {size} were announced",
            if sent > size { "more".to_owned() } else { sent.to_string() }
        );
        return Err(here(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    let hash = hex(hash);
    outbox.end(0, hash.as_bytes()).await?;
    Ok(hash)
}

fn received(path: &str, payload: &[u8], bytes: u64, sent: &str) -> Result<Receipt, AgentError> {
    match outcome("a file", payload)? {
        Outcome::Receipt(receipt) if receipt.bytes == bytes && receipt.sha256 == sent => Ok(receipt),
        Outcome::Receipt(receipt) => {
            Err(AgentError::Checksum { path: path.to_owned(), sent: sent.to_owned(), arrived: receipt.sha256 })
        }
        other => Err(strange("a file", &other)),
    }
}

/// For a file that came here, the two sums change places.
fn swap(error: AgentError) -> AgentError {
    match error {
        AgentError::Checksum { path, sent, arrived } => AgentError::Checksum { path, sent: arrived, arrived: sent },
        other => other,
    }
}

pub(super) fn too_large(path: &str, limit: u64) -> AgentError {
    Failure::new(FailureKind::TooLarge, format!("send {path}"), format!("it is larger than {limit} bytes")).into()
}

/// Lower-case hex.
pub(in crate::agent) fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string");
        text
    })
}
