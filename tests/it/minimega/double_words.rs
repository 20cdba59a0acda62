//! What the double takes and gives: its traps, the words of a line, answers.

use std::time::Duration;

use serde_json::{Value, json};

/// Ways to misbehave. Commands are named by a part of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traps {
    /// Another version than [`VERSION`].
    pub(crate) version: Option<&'static str>,
    /// Builtins and commands that it does not know.
    pub(crate) unknown: Vec<&'static str>,
    /// Ends the whole process.
    pub(crate) crash_at: Option<&'static str>,
    /// Closes the connection without an answer.
    pub(crate) close_at: Option<&'static str>,
    /// Never answers.
    pub(crate) silent_at: Option<&'static str>,
    /// Answers with these bytes.
    pub(crate) bytes_at: Option<(&'static str, Vec<u8>)>,
    /// Answers without end.
    pub(crate) endless_at: Option<&'static str>,
    /// News of transfers before each answer.
    pub(crate) news: usize,
    /// Each answer takes so long.
    pub(crate) slow: Duration,
    /// Answers to such a command take so long.
    pub(crate) slow_at: Option<(&'static str, Duration)>,
    /// Columns come in another order.
    pub(crate) turned: bool,
    /// Between the counter of responses and each of their files.
    pub(crate) late: Duration,
    /// Sends whose name ends so do not arrive.
    pub(crate) lose: Option<&'static str>,
    /// Sends whose name ends so arrive damaged.
    pub(crate) damage: Option<&'static str>,
    /// Nothing that is to be received arrives.
    pub(crate) keep_received: bool,
    /// What is received arrives damaged.
    pub(crate) damage_received: bool,
    /// Clients are listed, and do nothing.
    pub(crate) hang: bool,
    /// Machines whose name ends so cannot be launched.
    pub(crate) fail: Option<&'static str>,
    /// So many times, `clear namespace` finds a launch under way.
    pub(crate) launching: usize,
    /// Captures have this snap length, whatever was asked for.
    pub(crate) snaplen: Option<u32>,
    /// Somebody else gives orders after each one.
    pub(crate) intrude: bool,
    /// Other hosts of its mesh; its own is called [`HERE`].
    pub(crate) mesh: Vec<&'static str>,
    /// Largest packet that the tunnel between two of them takes, where there is a real one.
    pub(crate) tunnel_mtu: Option<u32>,
    /// No miniccc reports from a machine that was started.
    pub(crate) silent_start: bool,
    /// All guests' files are in one directory, [`super::guest::shared_files`].
    pub(crate) same_files: bool,
    /// Containers and virtual machines are real ones; the double must have mounts of its own for the ones, and a network of its
    /// own for cards.
    pub(crate) contain: bool,
}

/// Name of the host that it says it is on.
pub(crate) const HERE: &str = "vm";

fn response(text: &str, error: &str, data: Value) -> Value {
    json!({ "Host": HERE, "Response": text, "Header": null, "Tabular": null, "Error": error, "Data": data })
}

pub(crate) fn done() -> Value {
    response("", "", Value::Null)
}

pub(crate) fn text(text: &str) -> Value {
    response(text, "", Value::Null)
}

pub(crate) fn error(text: String) -> Value {
    response("", &text, Value::Null)
}

pub(super) fn posted(id: u64) -> Value {
    response("", "", json!(id))
}

/// An answer with data and no words.
pub(super) fn data(data: Value) -> Value {
    response("", "", data)
}

/// Network cards that QEMU has.
const DRIVERS: [&str; 5] = ["e1000", "e1000e", "rtl8139", "virtio-net-pci", "vmxnet3"];

fn is_mac(text: &str) -> bool {
    let bytes: Vec<&str> = text.split(':').collect();
    bytes.len() == 6 && bytes.iter().all(|byte| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok())
}

/// Is it a card as `vm config net` takes it, without QinQ? Two words may be anything: what is no driver becomes a network.
pub(super) fn is_net(text: &str) -> bool {
    let is_driver = |word: &str| DRIVERS.contains(&word);
    match text.split(',').collect::<Vec<_>>().as_slice() {
        [_] | [_, _] => true,
        [_, _, last] => is_mac(last) || is_driver(last),
        [_, _, mac, driver] => is_mac(mac) && is_driver(driver),
        _ => false,
    }
}

/// Which word of a card is its address: after the network, and after the bridge where there is one.
pub(super) fn mac_at(net: &str) -> usize {
    net.split(',').position(is_mac).unwrap_or_default()
}

/// As minicli reads a line.
pub(super) fn lexed(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut emit, mut quote) = (Vec::new(), String::new(), false, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.push(match chars.next().ok_or("expected escape character")? {
                'r' => '\r',
                'n' => '\n',
                't' => '\t',
                c if "\\\"'#".contains(c) => c,
                c => return Err(format!("unexpected escaped character: {c}")),
            }),
            c if quote == Some(c) => (quote, emit) = (None, true),
            c if quote.is_some() => word.push(c),
            '"' | '\'' => quote = Some(c),
            '#' => break,
            c if c.is_whitespace() => {
                if emit || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                    emit = false;
                }
            }
            c => word.push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("missing terminal {quote}"));
    }
    if emit || !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}
