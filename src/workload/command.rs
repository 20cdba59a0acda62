//! Preset `command`: the user's own commands, metrics by regular expression or JSON pointer.

use std::borrow::Cow;
use std::time::Duration;

use regex::Regex;
use serde_json::Value as Json;

use super::number::{decimal, shown};
use super::readings::Readings;
use super::template::{Side, argument, arguments};
use super::{Client, Keep, PairContext, PairOutputs, Parsed, Server, Tool, Workload, WorkloadError};
use crate::ids::NodeId;
use crate::node::{Command, Output};
use crate::spec::{MetricPattern, MetricRule, Ready, Source};

/// The user's own commands.
#[derive(Debug)]
pub(super) struct Custom {
    pub(super) server: Option<Vec<String>>,
    pub(super) client: Vec<String>,
    pub(super) ready: Option<Ready>,
    pub(super) ready_timeout: Duration,
    pub(super) time_limit: Option<Duration>,
    pub(super) metrics: Vec<MetricRule>,
    pub(super) keep: Vec<String>,
    pub(super) keep_server: Vec<String>,
}

impl Workload for Custom {
    /// The programs named outright; one that comes from a placeholder is found out when it starts.
    fn tools(&self) -> Vec<Tool> {
        let programs = self.server.iter().chain([&self.client]).filter_map(|argv| argv.first());
        let fixed = programs.filter(|program| !program.contains(['{', '}']));
        let mut tools: Vec<Tool> =
            fixed.map(|program| Tool { program: program.clone(), package: None, version: None }).collect();
        tools.dedup();
        tools
    }

    fn server(&self, pair: &PairContext<'_>) -> Result<Option<Server>, WorkloadError> {
        let Some(argv) = &self.server else { return Ok(None) };
        let argv = arguments(pair, Side::Server, argv)?;
        let ready = match &self.ready {
            Some(Ready::Tcp(0)) => Some(Ready::Tcp(pair.port)),
            Some(Ready::File(path)) => Some(Ready::File(argument(pair, Side::Server, path)?)),
            other => other.clone(),
        };
        Ok(Some(Server {
            files: Vec::new(),
            command: Command { argv, ..Command::default() },
            ready: ready.into_iter().collect(),
            ready_timeout: self.ready_timeout,
            ends_by_itself: false,
            stop_signal: libc::SIGTERM,
            settling: None,
        }))
    }

    fn client(&self, pair: &PairContext<'_>) -> Result<Client, WorkloadError> {
        let argv = arguments(pair, Side::Client, &self.client)?;
        Ok(Client {
            command: Command { argv, ..Command::default() },
            fetch: Vec::new(),
            time_limit: self.time_limit,
            ending: None,
        })
    }

    fn keep(&self, pair: &PairContext<'_>) -> Result<Keep, WorkloadError> {
        Ok(Keep {
            client: arguments(pair, Side::Client, &self.keep)?,
            server: arguments(pair, Side::Server, &self.keep_server)?,
        })
    }

    fn parse(&self, pair: &PairContext<'_>, outputs: &PairOutputs) -> Parsed {
        let mut readings = Readings::new(pair.pair);
        let program = self.client.first().map_or("client", String::as_str);
        readings.client_finished(program, outputs);
        for rule in &self.metrics {
            let read = read(rule, outputs);
            match &read {
                Err(problem) => readings.invalid(format!("metric {}: {problem}", rule.name)),
                Ok(None) if rule.required => {
                    readings.invalid(format!(
                        "metric {}: {} is not in the {} output",
                        rule.name,
                        place(rule),
                        side(rule)
                    ));
                }
                Ok(_) => {}
            }
            let node = match rule.from {
                Source::Client => NodeId::client(pair.pair),
                Source::Server => NodeId::server(pair.pair),
            };
            readings.metric_on(node, rule.level, &rule.name, &rule.unit, rule.better, read.unwrap_or(None));
        }
        readings.finish()
    }
}

fn side(rule: &MetricRule) -> &'static str {
    match rule.from {
        Source::Client => "client's",
        Source::Server => "server's",
    }
}

fn place(rule: &MetricRule) -> String {
    match &rule.pattern {
        MetricPattern::Regex(pattern) => format!("`{}`", shown(pattern)),
        MetricPattern::Json(pointer) => format!("`{}`", shown(pointer)),
    }
}

/// The number a rule points at; `None` when its place is not there, an error when what is there is no number.
fn read(rule: &MetricRule, outputs: &PairOutputs) -> Result<Option<f64>, String> {
    let output = match rule.from {
        Source::Client => Some(&outputs.client_out),
        Source::Server => outputs.server_out.as_ref(),
    };
    let Some(output) = output else { return Ok(None) };
    match &rule.pattern {
        MetricPattern::Regex(pattern) => by_regex(pattern, &text(output)),
        MetricPattern::Json(pointer) => by_pointer(pointer, output),
    }
}

fn text(output: &Output) -> Cow<'_, str> {
    String::from_utf8_lossy(&output.bytes)
}

fn by_regex(pattern: &str, text: &str) -> Result<Option<f64>, String> {
    let regex = Regex::new(pattern).map_err(|error| format!("bad regular expression: {error}"))?;
    let Some(captures) = regex.captures(text) else { return Ok(None) };
    match captures.get(1) {
        Some(group) => decimal(group.as_str()).map(Some),
        None => Err(format!("`{}` matched without its first group", shown(pattern))),
    }
}

fn by_pointer(pointer: &str, output: &Output) -> Result<Option<f64>, String> {
    if output.truncated {
        return Err("the output is longer than is kept, so its JSON is cut".to_owned());
    }
    let json: Json =
        serde_json::from_slice(&output.bytes).map_err(|error| format!("the output is no JSON: {error}"))?;
    match json.pointer(pointer) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Number(number)) => decimal(&number.to_string()).map(Some),
        Some(other) => Err(format!("`{}` is no number but `{}`", shown(pointer), shown(&other.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Better, Level};
    use crate::spec::Value;
    use crate::workload::tests::{outputs, pair, tuple, value};

    fn rule(pattern: MetricPattern, required: bool) -> MetricRule {
        MetricRule {
            name: "speed".to_owned(),
            unit: "m/s".to_owned(),
            better: Some(Better::Higher),
            level: Level::Network,
            from: Source::Client,
            pattern,
            required,
        }
    }

    fn custom(metrics: Vec<MetricRule>) -> Custom {
        let argv = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
        Custom {
            server: Some(argv(&["serve", "{port}", "{scratch}"])),
            client: argv(&["ask", "{server}", "{what}", "{scratch}"]),
            ready: None,
            ready_timeout: Duration::from_secs(1),
            time_limit: None,
            metrics,
            keep: Vec::new(),
            keep_server: Vec::new(),
        }
    }

    fn parse(pattern: MetricPattern, required: bool, code: i32, out: &str, err: &str) -> Parsed {
        custom(vec![rule(pattern, required)]).parse(&pair(&tuple(&[])), &outputs(code, out, err))
    }

    fn regex(out: &str, required: bool) -> Parsed {
        parse(MetricPattern::Regex(r"(?m)^speed: (\S+)".to_owned()), required, 0, out, "")
    }

    #[test]
    fn numbers_are_found_by_regular_expression() {
        let parsed = regex("x\nspeed: 1.5e3 m/s\nspeed: 7\n", true);
        assert_eq!(value(&parsed, "speed"), Some(1500.0), "the first match counts");
        assert!(parsed.invalid.is_empty());
        let metric = &parsed.metrics[0];
        assert_eq!((metric.level, metric.unit.as_str(), metric.better), (Level::Network, "m/s", Some(Better::Higher)));
    }

    #[test]
    fn numbers_are_found_by_json_pointer() {
        let json = |pointer: &str| {
            parse(MetricPattern::Json(pointer.to_owned()), true, 0, r#"{"a":[1,{"b":0.25}],"s":"1"}"#, "")
        };
        assert_eq!(value(&json("/a/1/b"), "speed"), Some(0.25));
        assert_eq!(json("/s").invalid, [r#"pair 1: metric speed: `/s` is no number but `\"1\"`"#]);
        assert_eq!(json("/c").invalid, ["pair 1: metric speed: `/c` is not in the client's output"]);
        let cut = parse(MetricPattern::Json("/a".to_owned()), false, 0, "{\"a\":1", "");
        assert!(cut.invalid[0].contains("is no JSON"), "{:?}", cut.invalid);
    }

    #[test]
    fn what_is_missing_stays_missing() {
        let optional = regex("nothing", false);
        assert_eq!((value(&optional, "speed"), optional.invalid.len()), (None, 0));
        let required = regex("nothing", true);
        assert_eq!(value(&required, "speed"), None);
        assert_eq!(required.invalid, [r"pair 1: metric speed: `(?m)^speed: (\\S+)` is not in the client's output"]);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["1,234", "nan", "inf", "1e999", "12ms"] {
            let parsed = regex(&format!("speed: {text}"), false);
            assert_eq!(value(&parsed, "speed"), None);
            assert!(parsed.invalid[0].contains(text), "{:?}", parsed.invalid);
        }
    }

    #[test]
    fn a_failed_client_is_named_with_its_last_line() {
        let parsed = parse(MetricPattern::Regex("(1)".to_owned()), true, 3, "1", "warming up\nout of luck\n");
        assert_eq!(parsed.invalid, ["pair 1: ask ended with exit status 3: out of luck"]);
    }

    #[test]
    fn placeholders_are_put_in_for_each_side() {
        let tuple = tuple(&[("what", Value::Text("a b".to_owned()))]);
        let mut custom = custom(Vec::new());
        custom.ready = Some(Ready::File("{scratch}/up".to_owned()));
        let server = custom.server(&pair(&tuple)).unwrap().unwrap();
        assert_eq!(server.command.argv, ["serve", "80", "/s"]);
        assert_eq!(server.ready, [Ready::File("/s/up".to_owned())]);
        assert_eq!(custom.client(&pair(&tuple)).unwrap().command.argv, ["ask", "10.0.0.2", "a b", "/c"]);
        custom.ready = Some(Ready::Tcp(0));
        assert_eq!(custom.server(&pair(&tuple)).unwrap().unwrap().ready, [Ready::Tcp(80)]);
    }
}
