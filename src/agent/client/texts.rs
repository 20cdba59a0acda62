//! What an agent says in words is shown and stored: it is made short and printable first, and what would not mean the
//! same then is refused. Pure.

use super::super::error::AgentError;
use super::super::message::{CaptureEnd, Hello, Lent, Outcome, Reading, Way};
use crate::record::HostUse;
use crate::text::printable;

/// Settings of one interface.
const READINGS: usize = 256;
/// Things that went wrong with one capture.
const PROBLEMS: usize = 64;
/// Characters of a sentence.
const SENTENCE: usize = 1000;
/// Characters of a value.
const VALUE: usize = 200;
/// Characters of a name.
const NAME: usize = 64;
/// Bytes of a path.
const PATH: usize = 4096;

/// What an agent says of itself.
///
/// # Errors
/// Paths are used as they are: one with control characters, or too long for any system, is refused.
pub(super) fn hello(mut hello: Hello) -> Result<Hello, AgentError> {
    hello.version = printable(&hello.version, NAME);
    for text in [&mut hello.kernel, &mut hello.boot_id, &mut hello.network].into_iter().flatten() {
        *text = printable(text, VALUE);
    }
    for path in [&hello.scratch, &hello.vptest] {
        if path.len() > PATH || path.contains(char::is_control) {
            let text = format!("`{}` is no path", printable(path, VALUE));
            return Err(AgentError::Answer { request: "greeting", text });
        }
    }
    Ok(hello)
}

/// The end of a call.
pub(super) fn outcome(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Text(text) => Outcome::Text(printable(&text, SENTENCE)),
        Outcome::Readings(readings) => Outcome::Readings(readings.into_iter().take(READINGS).map(reading).collect()),
        Outcome::Lent(lent) => {
            Outcome::Lent(Lent { interface: printable(&lent.interface, NAME), notes: sentences(lent.notes), ..lent })
        }
        Outcome::Routed(way) => Outcome::Routed(Way { interface: printable(&way.interface, NAME), ..way }),
        Outcome::GaveBack { left } => Outcome::GaveBack { left: sentences(left) },
        Outcome::HostUse(used) => Outcome::HostUse(Box::new(host_use(*used))),
        Outcome::Captured(end) => Outcome::Captured(Box::new(captured(*end))),
        other => other,
    }
}

fn host_use(mut used: HostUse) -> HostUse {
    if let Some(top) = used.foreign.as_mut().and_then(|foreign| foreign.top.as_mut()) {
        top.name = printable(&top.name, NAME);
    }
    used
}

fn sentences(texts: Vec<String>) -> Vec<String> {
    texts.iter().take(PROBLEMS).map(|text| printable(text, SENTENCE)).collect()
}

fn reading(reading: Reading) -> Reading {
    let value = reading.value.map(|value| printable(&value, VALUE));
    Reading { name: printable(&reading.name, NAME), value }
}

fn captured(mut end: CaptureEnd) -> CaptureEnd {
    end.capture.interface = printable(&end.capture.interface, NAME);
    end.problems.truncate(PROBLEMS);
    for problem in &mut end.problems {
        problem.text = printable(&problem.text, SENTENCE);
    }
    if let Some(problem) = end.packets.as_mut().and_then(|packets| packets.problem.as_mut()) {
        *problem = printable(problem, SENTENCE);
    }
    end
}

/// Remarks, such as those on a trace.
pub(super) fn notes(notes: Vec<String>) -> Vec<String> {
    notes.iter().take(PROBLEMS).map(|note| printable(note, SENTENCE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(value: &serde_json::Value) -> Hello {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn what_an_agent_says_of_itself_is_short_and_printable() {
        let long = "x".repeat(1 << 16);
        let told = said(&serde_json::json!({
            "protocol": 1, "version": "9\u{1b}[2J\n", "kernel": long, "scratch": "/tmp/a b", "vptest": "/bin/vptest",
        }));
        let told = hello(told).unwrap();
        assert_eq!((told.version.as_str(), told.scratch.as_str()), ("9[2J", "/tmp/a b"));
        assert_eq!(told.kernel.unwrap().len(), VALUE);
        for path in ["/tmp/\u{1b}c".to_owned(), "x".repeat(PATH + 1)] {
            let told = said(&serde_json::json!({ "protocol": 1, "version": "9", "scratch": path }));
            assert!(matches!(hello(told), Err(AgentError::Answer { .. })));
        }
    }

    #[test]
    fn settings_are_bounded_in_number_and_length() {
        let one = || Reading { name: "a\u{7}b".to_owned(), value: Some("\u{202e}v".repeat(1000)) };
        let Outcome::Readings(readings) = outcome(Outcome::Readings((0..1000).map(|_| one()).collect())) else {
            panic!("another outcome");
        };
        assert_eq!(readings.len(), READINGS);
        assert_eq!((readings[0].name.as_str(), readings[0].value.as_ref().unwrap().len()), ("ab", VALUE));
    }
}
