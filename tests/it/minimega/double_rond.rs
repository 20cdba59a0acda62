//! rond's commands.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::double::{Command, Namespace, Shared, What, done, error, owned, table, text};
use super::guest;

/// `None` closes the connection: so does every command that it cannot parse.
pub(crate) fn run(shared: &Arc<Shared>, words: &[&str]) -> Option<Value> {
    let mut state = shared.state.lock().unwrap();
    let all = state.namespaces.entry(String::new()).or_default();
    match words {
        ["clients"] => {
            let rows: Vec<_> = all
                .clients
                .iter()
                .map(|(uuid, client)| BTreeMap::from([("UUID", uuid.clone()), ("hostname", client.name.clone())]))
                .collect();
            Some(table(shared, "clients", &rows))
        }
        ["commands"] => {
            let row = |c: &Command| {
                let list = |words: &[String]| format!("[{}]", words.join(" "));
                let (run, sent, received) = match &c.what {
                    What::Run(argv) => (list(argv), list(&[]), list(&[])),
                    What::Send(name) => (list(&[]), list(std::slice::from_ref(name)), list(&[])),
                    What::Receive(names) => (list(&[]), list(&[]), list(names)),
                };
                let (id, responses) = (c.id.to_string(), c.responses.to_string());
                BTreeMap::from([
                    ("id", id),
                    ("command", run),
                    ("sent", sent),
                    ("received", received),
                    ("responses", responses),
                    ("filter", c.filter.clone().unwrap_or_default()),
                ])
            };
            let rows: Vec<_> = all.commands.iter().map(row).collect();
            Some(table(shared, "commands", &rows))
        }
        ["filter"] => {
            let nothing = "(*ron.Filter)(nil)".to_owned();
            let shown = |filter: &str| {
                let (name, value) = filter.split_once('=').unwrap();
                let field =
                    |field: &str| format!("{field}:\"{}\"", if field.to_lowercase() == name { value } else { "" });
                let fields = ["UUID", "Hostname", "Arch", "OS", "MAC", "IP"].map(field).join(", ");
                format!("&ron.Filter{{{fields}, Tags:map[string]string(nil)}}")
            };
            Some(text(&all.filter().map_or(nothing, shown)))
        }
        // One condition alone.
        ["filter", filter] => {
            all.set_filter(Some(filter));
            Some(done())
        }
        ["clear", "filter"] => {
            all.set_filter(None);
            Some(done())
        }
        ["clear", "commands"] => {
            all.commands.clear();
            all.clients.values_mut().for_each(guest::renumber);
            Some(done())
        }
        // None of these says the number.
        ["exec-once", argv @ ..] if !argv.is_empty() => give(shared, all, What::Run(owned(argv)), true),
        ["send", file] => {
            if !shared.files().join(file).is_file() {
                return Some(error(format!("non-existent files {}", shared.files().join(file).display())));
            }
            give(shared, all, What::Send((*file).to_owned()), false)
        }
        ["recv", file] => give(shared, all, What::Receive(owned(&[file])), false),
        _ => None,
    }
}

fn give(shared: &Shared, all: &mut Namespace, what: What, once: bool) -> Option<Value> {
    all.post(what, once);
    if shared.trap().intrude {
        all.post(What::Run(owned(&["uptime"])), false);
    }
    Some(done())
}
