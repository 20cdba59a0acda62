//! Argument vectors with the values of a pair put in.

use super::{PairContext, WorkloadError};
use crate::spec::Value;
use crate::spec::placeholder::{PLACEHOLDERS, UnknownPlaceholder, expand};

/// Which node a text is for: `{scratch}` differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// One argument with its placeholders replaced.
pub(super) fn argument(pair: &PairContext<'_>, side: Side, text: &str) -> Result<String, WorkloadError> {
    expand(text, |name| value(pair, side, name)).map_err(|UnknownPlaceholder(name)| WorkloadError::UnknownPlaceholder {
        name,
        argument: text.to_owned(),
        known: known(pair),
    })
}

/// Arguments with their placeholders replaced, one for one.
pub(super) fn arguments(pair: &PairContext<'_>, side: Side, texts: &[String]) -> Result<Vec<String>, WorkloadError> {
    texts.iter().map(|text| argument(pair, side, text)).collect()
}

fn value(pair: &PairContext<'_>, side: Side, name: &str) -> Option<String> {
    let scratch = match side {
        Side::Client => pair.client_scratch,
        Side::Server => pair.server_scratch,
    };
    match name {
        "server" => Some(pair.server.to_string()),
        "port" => Some(pair.port.to_string()),
        "pair" => Some(pair.pair.to_string()),
        "scratch" => Some(scratch.to_owned()),
        "vptest" => Some(pair.vptest.to_owned()),
        _ => pair.tuple.get(name).map(Value::to_string),
    }
}

fn known(pair: &PairContext<'_>) -> String {
    let mut names: Vec<String> = PLACEHOLDERS.iter().map(|&(name, _)| name.to_owned()).collect();
    for (name, value) in pair.tuple.iter() {
        names.push(name.to_owned());
        if let Value::Group(members) = value {
            names.extend(members.keys().map(|member| format!("{name}.{member}")));
        }
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::tests::{pair, tuple};

    #[test]
    fn built_ins_and_factors_are_known() {
        let tuple = tuple(&[("colour", Value::Text("dark red".to_owned()))]);
        let pair = pair(&tuple);
        for (name, _) in PLACEHOLDERS {
            assert!(value(&pair, Side::Server, name).is_some(), "{name} has no value");
        }
        let text = argument(&pair, Side::Client, "{scratch}/{pair}:{colour}").unwrap();
        assert_eq!(text, "/c/1:dark red");
        let error = argument(&pair, Side::Client, "--x={color}").unwrap_err().to_string();
        assert!(error.starts_with("`{color}` in `--x={color}` is no factor"), "{error}");
        assert!(error.contains("colour"), "{error}");
    }
}
