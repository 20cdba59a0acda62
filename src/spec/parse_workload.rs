//! `[workload]`: the presets and their keys.

use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::parse::positive_duration;
use super::read::{Entry, Section, Sink, Span, suggestion};
use super::{HttpServer, MetricPattern, MetricRule, Protocol, Ready, Source, WorkloadSpec, factors};
use crate::ids::{Better, Level};
use crate::units::Rate;

/// Length of an iperf3 run that the spec does not name.
pub const DEFAULT_IPERF3_DURATION: Duration = Duration::from_secs(10);
/// How long a server may take to be ready where the spec does not say.
pub const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(30);

const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// Arguments in which placeholders are replaced, with their places.
pub(super) type Arguments = Vec<(String, Span)>;

#[derive(Clone, Copy)]
enum Preset {
    Ab,
    Iperf3,
    Protonuke,
    Command,
}

const PRESETS: &[(&str, Preset)] =
    &[("ab", Preset::Ab), ("iperf3", Preset::Iperf3), ("protonuke", Preset::Protonuke), ("command", Preset::Command)];

/// Stands in a spec that has errors, which nobody gets to see.
pub(super) const fn placeholder() -> WorkloadSpec {
    WorkloadSpec::Ab { server: HttpServer::Builtin, keepalive: false, arguments: Vec::new() }
}

/// Reads `workload = "ab"` or `[workload]`.
pub(super) fn read(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<(WorkloadSpec, Arguments)> {
    if entry.value.is_str() {
        return match entry.choice(sink, PRESETS)? {
            Preset::Command => {
                let help = "the preset `command` needs a table: [workload] with `client = [\"program\", …]`".to_owned();
                entry.refuse_with_help(
                    sink,
                    "`\"ab\"`, `\"iperf3\"` or `\"protonuke\"` in this short form",
                    Some(help),
                );
                None
            }
            preset => {
                let empty = toml::de::DeTable::new();
                let workload = read_preset(preset, &mut Section::new("workload".to_owned(), &empty, 0..0), sink);
                workload.map(|workload| (workload, Vec::new()))
            }
        };
    }
    let mut section = entry.section(sink)?;
    let help = "preset = \"ab\", \"iperf3\", \"protonuke\" or \"command\"";
    let preset = section.need("preset", sink, help)?.choice(sink, PRESETS)?;
    let mut arguments = Vec::new();
    let workload = read_table(preset, &mut section, &mut arguments, sink);
    section.finish(sink);
    Some((workload?, arguments))
}

fn read_table(
    preset: Preset,
    section: &mut Section<'_>,
    arguments: &mut Arguments,
    sink: &mut Sink<'_>,
) -> Option<WorkloadSpec> {
    // `ready.file` is a path in which placeholders are replaced, too.
    let ready_entry = section.peek("ready");
    let mut workload = read_preset(preset, section, sink);
    match &mut workload {
        Some(WorkloadSpec::Ab { arguments: own, .. } | WorkloadSpec::Iperf3 { arguments: own, .. }) => {
            if let Some(entry) = section.take("arguments") {
                *own = strings(&entry, arguments, sink);
            }
        }
        Some(WorkloadSpec::Protonuke(spec)) => {
            if let Some(entry) = section.take("arguments") {
                spec.arguments = strings(&entry, arguments, sink);
            }
            if let Some(entry) = section.take("server_arguments") {
                spec.server_arguments = strings(&entry, arguments, sink);
            }
        }
        Some(WorkloadSpec::Command { client, server, ready, keep, keep_server, .. }) => {
            if let Some((Ready::File(path), entry)) = ready.as_ref().zip(ready_entry) {
                arguments.push((path.clone(), entry.span));
            }
            if let Some(entry) = section.take("client") {
                *client = command(&entry, arguments, sink);
            }
            if let Some(entry) = section.take("keep") {
                *keep = files(&entry, arguments, sink);
            }
            if let Some(entry) = section.take("keep_server") {
                if !section.has("server") {
                    let message = "`workload.keep_server` names files of a server, but there is no `server`";
                    let help = "files of the client are named by `keep`";
                    sink.push(Diagnostic::error(entry.key.clone(), message).help(help));
                }
                *keep_server = files(&entry, arguments, sink);
            }
            *server = section.take("server").map(|entry| command(&entry, arguments, sink));
        }
        None => {}
    }
    workload
}

/// A list of strings, each remembered with its place.
fn strings(entry: &Entry<'_>, arguments: &mut Arguments, sink: &mut Sink<'_>) -> Vec<String> {
    for item in entry.elements().unwrap_or_default() {
        if let Some(text) = item.value.as_str() {
            arguments.push((text.to_owned(), item.span.clone()));
        }
    }
    entry.strings(sink).unwrap_or_default()
}

/// Paths of files, which must not lead out of where they are kept.
fn files(entry: &Entry<'_>, arguments: &mut Arguments, sink: &mut Sink<'_>) -> Vec<String> {
    for item in entry.elements().unwrap_or_default() {
        let is_file = |path: &str| !path.trim_matches('/').is_empty() && !path.split('/').any(|part| part == "..");
        if item.value.as_str().is_some_and(|path| !is_file(path)) {
            item.refuse(sink, "the path of a file, without `..`");
        }
    }
    strings(entry, arguments, sink)
}

/// An argument vector: at least a program.
fn command(entry: &Entry<'_>, arguments: &mut Arguments, sink: &mut Sink<'_>) -> Vec<String> {
    let is_line = entry.value.is_str();
    if is_line {
        let help = "commands are argument vectors; for a shell line write [\"sh\", \"-c\", \"…\"]".to_owned();
        entry.refuse_with_help(sink, "a list of strings: program and arguments", Some(help));
        return Vec::new();
    }
    let argv = strings(entry, arguments, sink);
    let is_empty = entry.elements().is_some_and(|items| items.is_empty());
    if is_empty || argv.first().is_some_and(String::is_empty) {
        entry.refuse(sink, "at least the name of a program");
    }
    argv
}

fn read_preset(preset: Preset, section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<WorkloadSpec> {
    Some(match preset {
        Preset::Ab => read_ab(section, sink),
        Preset::Protonuke => WorkloadSpec::Protonuke(super::parse_protonuke::read(section, sink)),
        Preset::Iperf3 => WorkloadSpec::Iperf3 {
            protocol: section
                .take("protocol")
                .and_then(|e| e.choice(sink, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]))
                .unwrap_or(Protocol::Tcp),
            duration: section.take("duration").and_then(|e| whole_seconds(&e, sink)).unwrap_or(DEFAULT_IPERF3_DURATION),
            streams: section.take("streams").and_then(|e| e.integer(sink, 1, 128)).unwrap_or(1),
            bitrate: section.take("bitrate").and_then(|e| e.quantity(sink, Rate::ACCEPTED)),
            reverse: section.take("reverse").and_then(|e| e.switch(sink)).unwrap_or(false),
            arguments: Vec::new(),
        },
        Preset::Command => read_command(section, sink)?,
    })
}

fn read_ab(section: &mut Section<'_>, sink: &mut Sink<'_>) -> WorkloadSpec {
    const SERVERS: &[(&str, HttpServer)] =
        &[("builtin", HttpServer::Builtin), ("nginx", HttpServer::Nginx), ("protonuke", HttpServer::Protonuke)];
    let server = section.take("server").and_then(|e| e.choice(sink, SERVERS)).unwrap_or(HttpServer::Builtin);
    let entry = section.take("keepalive");
    let keepalive = entry.as_ref().and_then(|e| e.switch(sink)).unwrap_or(false);
    if let Some(entry) = entry.filter(|_| keepalive && server == HttpServer::Protonuke) {
        entry.refuse(sink, "`false` with `server = \"protonuke\"`, which closes each connection after one answer");
    }
    WorkloadSpec::Ab { server, keepalive, arguments: Vec::new() }
}

/// iperf3 takes its `-t` in whole seconds and at most a day.
fn whole_seconds(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Duration> {
    let duration = positive_duration(entry, Duration::from_secs(86_400), sink)?;
    if duration.subsec_nanos() != 0 {
        entry.refuse(sink, "whole seconds (iperf3 has no finer ones)");
        return None;
    }
    Some(duration)
}

fn read_command(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<WorkloadSpec> {
    if !section.has("client") {
        section.need("client", sink, "what runs on the client node: client = [\"program\", \"argument\"]");
        return None;
    }
    let ready = section.take("ready");
    if let Some(entry) = ready.as_ref().filter(|_| !section.has("server")) {
        let message = "`workload.ready` waits for a server, but there is no `server`";
        sink.push(Diagnostic::error(entry.key.clone(), message).help("name a `server` command, or leave `ready` out"));
    }
    let ready_timeout = section.take("ready_timeout").and_then(|e| positive_duration(&e, LONGEST, sink));
    let has_server = section.has("server");
    Some(WorkloadSpec::Command {
        server: None,
        client: Vec::new(),
        ready: ready.and_then(|e| read_ready(&e, sink)),
        ready_timeout: ready_timeout.unwrap_or(DEFAULT_READY_TIMEOUT),
        time_limit: section.take("time_limit").and_then(|e| positive_duration(&e, LONGEST, sink)),
        metrics: section.take("metric").map(|e| read_metrics(&e, has_server, sink)).unwrap_or_default(),
        keep: Vec::new(),
        keep_server: Vec::new(),
    })
}

fn read_ready(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<Ready> {
    const EXPECTED: &str = "one of { tcp = 80 }, { file = \"/path\" } and { output = \"pattern\" }";
    let mut section = match entry.value.is_table() {
        true => entry.section(sink)?,
        false => {
            entry.refuse(sink, EXPECTED);
            return None;
        }
    };
    let tcp = section.take("tcp");
    let file = section.take("file");
    let output = section.take("output");
    section.finish(sink);
    match (tcp, file, output) {
        (Some(port), None, None) => {
            port.integer(sink, 1u32, 65_535).and_then(|n| u16::try_from(n).ok()).map(Ready::Tcp)
        }
        (None, Some(path), None) => path.filled(sink).map(|path| Ready::File(path.to_owned())),
        (None, None, Some(pattern)) => regex(&pattern, sink).map(|regex| Ready::Output(regex.as_str().to_owned())),
        _ => {
            entry.refuse(sink, EXPECTED);
            None
        }
    }
}

/// A regular expression that compiles.
fn regex(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<regex::Regex> {
    let text = entry.filled(sink)?;
    match regex::Regex::new(text) {
        Ok(regex) => Some(regex),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let message = format!("`{}` is no regular expression", entry.path);
            sink.push(Diagnostic::error(entry.span.clone(), message).label(reason));
            None
        }
    }
}

fn read_metrics(entry: &Entry<'_>, has_server: bool, sink: &mut Sink<'_>) -> Vec<MetricRule> {
    let mut rules: Vec<MetricRule> = Vec::new();
    let mut names: Vec<(String, Span)> = Vec::new();
    for mut section in entry.sections(sink) {
        let place = section.place("name");
        let Some(rule) = read_metric(&mut section, has_server, sink) else {
            section.finish(sink);
            continue;
        };
        section.finish(sink);
        if let Some((_, first)) = names.iter().find(|(name, _)| *name == rule.name) {
            let message = format!("metric `{}` is defined twice", rule.name);
            sink.push(Diagnostic::error(place, message).label("again here").related(first.clone(), "first here"));
            continue;
        }
        names.push((rule.name.clone(), place));
        rules.push(rule);
    }
    rules
}

fn read_metric(section: &mut Section<'_>, has_server: bool, sink: &mut Sink<'_>) -> Option<MetricRule> {
    let name = section.need("name", sink, "name = \"throughput\"").and_then(|e| metric_name(&e, sink));
    let unit = section.need("unit", sink, "unit = \"bit/s\"; \"1\" for a plain number").and_then(|e| e.filled(sink));
    let better =
        section.take("better").and_then(|e| e.choice(sink, &[("higher", Better::Higher), ("lower", Better::Lower)]));
    let levels: Vec<(&str, Level)> = Level::ALL.iter().map(|level| (level.as_str(), *level)).collect();
    let level = section.take("level").and_then(|e| e.choice(sink, &levels)).unwrap_or(Level::Application);
    let from = section.take("from");
    let source = from.as_ref().and_then(|e| e.choice(sink, &[("client", Source::Client), ("server", Source::Server)]));
    if let Some(entry) = from.filter(|_| source == Some(Source::Server) && !has_server) {
        let message = "the metric is read from the server, but there is no `server`";
        sink.push(Diagnostic::error(entry.span, message).help("name a `server` command"));
    }
    let required = section.take("required").and_then(|e| e.switch(sink)).unwrap_or(true);
    let pattern = read_pattern(section, sink);
    Some(MetricRule {
        name: name?,
        unit: unit?.to_owned(),
        better,
        level,
        from: source.unwrap_or(Source::Client),
        pattern: pattern?,
        required,
    })
}

fn metric_name(entry: &Entry<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = entry.text(sink)?;
    if !factors::is_word(text) {
        entry.refuse(sink, "letters, digits, `-`, `_` and `.`, beginning with a letter or digit");
        return None;
    }
    Some(text.to_owned())
}

fn read_pattern(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<MetricPattern> {
    match (section.take("regex"), section.take("json")) {
        (Some(entry), None) => {
            let regex = regex(&entry, sink)?;
            if regex.captures_len() < 2 {
                let help = "put the number in parentheses: regex = \"rate: ([0-9.]+)\"".to_owned();
                entry.refuse_with_help(sink, "a capture group", Some(help));
                return None;
            }
            Some(MetricPattern::Regex(regex.as_str().to_owned()))
        }
        (None, Some(entry)) => {
            let pointer = entry.text(sink)?;
            if !is_json_pointer(pointer) {
                let help = format!("a JSON pointer begins with a slash: \"/{}\"", pointer.replace('.', "/"));
                entry.refuse_with_help(sink, "a JSON pointer (RFC 6901)", Some(help));
                return None;
            }
            Some(MetricPattern::Json(pointer.to_owned()))
        }
        (regex, _) => {
            let both = regex.is_some();
            let message =
                if both { "a metric has either `regex` or `json`" } else { "a metric needs `regex` or `json`" };
            sink.push(
                Diagnostic::error(section.span.clone(), message)
                    .help("regex = \"rate: ([0-9.]+)\" or json = \"/end/rate\""),
            );
            None
        }
    }
}

/// Begins with a slash; every `~` is followed by 0 or 1.
fn is_json_pointer(text: &str) -> bool {
    text.starts_with('/') && text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}

/// Help for a placeholder that is not known.
pub(super) fn placeholder_help(name: &str, factors: &[&str]) -> String {
    let builtin = super::placeholder::PLACEHOLDERS.iter().map(|(name, _)| *name);
    let all: Vec<&str> = factors.iter().copied().chain(builtin).collect();
    format!("{} (write `{{{{{name}}}}}` for the text `{{{name}}}` itself)", suggestion(name, &all))
}
