//! What QEMU says of a machine, through minimega (`vm qmp`).

use serde_json::{Value, json};

use super::daemon::Namespace;
use super::error::MinimegaError;
use crate::text::printable;

/// Asks the QEMU of a machine.
///
/// # Errors
/// [`MinimegaError::Answer`] when QEMU says that it cannot, and as [`Namespace::run`].
pub async fn ask(
    namespace: &Namespace,
    machine: &str,
    command: &str,
    arguments: Value,
) -> Result<Value, MinimegaError> {
    let mut question = json!({ "execute": command });
    if !arguments.is_null() {
        question["arguments"] = arguments;
    }
    // minimega puts the words together once more and quotes only those with a blank: without one, the quotes of the JSON
    // would be taken away.
    let answer = namespace.run(&["vm", "qmp", machine, &format!(" {question}")]).await?;
    returned(answer.text()).map_err(|text| MinimegaError::Answer { command: format!("vm qmp {command}"), text })
}

/// What is in `return`; the reason in words otherwise.
fn returned(text: &str) -> Result<Value, String> {
    let answer: Value = serde_json::from_str(text).map_err(|_| printable(text, 200))?;
    match answer.get("return") {
        Some(value) => Ok(value.clone()),
        None => Err(printable(text, 200)),
    }
}

/// Threads of the virtual CPUs, as QEMU knows their numbers.
///
/// # Errors
/// As [`ask`].
pub async fn cpu_threads(namespace: &Namespace, machine: &str) -> Result<Vec<i32>, MinimegaError> {
    let cpus = ask(namespace, machine, "query-cpus-fast", Value::Null).await?;
    let thread = |cpu: &Value| cpu["thread-id"].as_i64().and_then(|thread| i32::try_from(thread).ok());
    let threads = cpus.as_array().and_then(|cpus| cpus.iter().map(thread).collect::<Option<Vec<_>>>());
    threads.ok_or_else(|| MinimegaError::Answer {
        command: "vm qmp query-cpus-fast".to_owned(),
        text: printable(&cpus.to_string(), 200),
    })
}

/// What QEMU itself says: whether KVM is on, bytes of memory, type of the network card. `None` for what it does not.
pub async fn hardware(namespace: &Namespace, machine: &str) -> [(&'static str, Option<String>); 3] {
    let ask = |command, arguments| async move { ask(namespace, machine, command, arguments).await.ok() };
    let kvm = ask("query-kvm", Value::Null).await;
    let accel = kvm.and_then(|kvm| Some(if kvm["enabled"].as_bool()? { "kvm" } else { "tcg" }.to_owned()));
    let memory = ask("query-memory-size-summary", Value::Null).await;
    let memory = memory.and_then(|memory| Some(memory["base-memory"].as_u64()?.to_string()));
    let network = ask("human-monitor-command", json!({ "command-line": "info network" })).await;
    let card = network.and_then(|network| model(network.as_str()?));
    [("accel", accel), ("memory", memory), ("driver", card)]
}

/// The model of the first card in `info network`: `mega_tap0: index=0,type=tap,… \\ e1000.0: index=0,type=nic,model=e1000,…`.
fn model(text: &str) -> Option<String> {
    let card = text.lines().find(|line| line.contains("type=nic"))?;
    let model = card.split(',').find_map(|part| part.trim().strip_prefix("model="))?;
    Some(printable(model.trim(), 40))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_refusals_are_told_apart() {
        assert_eq!(returned(r#"{"return":{"enabled":false,"present":true}}"#).unwrap()["enabled"], false);
        let refused = r#"{"error":{"class":"CommandNotFound","desc":"no"}}"#;
        assert_eq!(returned(refused).unwrap_err(), refused);
        assert_eq!(returned("nothing").unwrap_err(), "nothing");
    }

    #[test]
    fn the_model_of_the_card_is_read_from_qemu() {
        let text = "e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:00:01:01\r\n \\ mega_tap0: index=0,type=tap,ifname=mega_tap0,script=no\r\n";
        assert_eq!(model(text).as_deref(), Some("e1000"));
        assert_eq!(model("mega_tap0: index=0,type=tap\r\n"), None);
    }
}
