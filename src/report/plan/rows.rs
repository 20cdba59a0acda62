//! Every iteration of a plan: CSV, JSON, commands.

use std::io::{self, Write};
use std::path::Path;

use super::Estimate;
use crate::plan::{Counts, Iteration, Plan};
use crate::spec::{Columns, Factor, PerColumns, StopSpec, Value, json_string};

/// One row for each iteration: number, identity, tuple, repetition, block, where there are sentinels whether it is one, then the factors
/// in the order of the spec.
///
/// A group has a column for each member, `request.url`. A factor that means nothing on the row's testbed is empty, as
/// is the block of an order without blocks. RFC 4180 quoting, lines end with a line feed. The writer should be buffered.
pub fn write_csv(plan: &Plan, mut out: impl Write) -> io::Result<()> {
    let names: Vec<String> = plan.spec.factors.iter().flat_map(columns).collect();
    let sentinels = plan.spec.sentinel.is_some();
    write!(out, "number,identity,tuple,repetition,block{}", if sentinels { ",sentinel" } else { "" })?;
    for name in &names {
        write!(out, ",{}", csv_field(name))?;
    }
    writeln!(out)?;
    let mut texts = PerColumns::new();
    for iteration in plan.iter() {
        let Iteration { number, identity, tuple_id, tuple, repetition, .. } = iteration;
        write!(out, "{number},{identity},{tuple_id},{repetition},")?;
        if let Some(block) = iteration.block {
            write!(out, "{block}")?;
        }
        if sentinels {
            write!(out, ",{}", iteration.sentinel)?;
        }
        for cell in texts.of(tuple, |columns| io::Result::Ok(csv_cells(&names, columns)))? {
            out.write_all(b",")?;
            if let Some((column, texts)) = cell {
                out.write_all(texts[tuple.indices()[*column] as usize].as_bytes())?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// For each column of the table the factor it comes from, with the text of each value; `None` where it is dropped.
fn csv_cells(names: &[String], columns: &Columns) -> Vec<Option<(usize, Vec<String>)>> {
    let cell = |name: &String| {
        let (factor, member) =
            name.split_once('.').map_or((name.as_str(), None), |(group, member)| (group, Some(member)));
        let column = columns.names.iter().position(|other| other == factor)?;
        let text = |value: &Value| match (value, member) {
            (Value::Group(members), Some(member)) => members.get(member).map(Value::to_string).unwrap_or_default(),
            _ => value.to_string(),
        };
        Some((column, columns.values[column].iter().map(|value| csv_field(&text(value)).into_owned()).collect()))
    };
    names.iter().map(cell).collect()
}

/// The factor's name, or `group.member` for each member of a group.
fn columns(factor: &Factor) -> Vec<String> {
    match factor.values.first() {
        Some(Value::Group(members)) => members.keys().map(|member| format!("{}.{member}", factor.name)).collect(),
        _ => vec![factor.name.clone()],
    }
}

fn csv_field(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}

/// One object with the plan's head and all iterations; docs/json.md describes it. The writer should be buffered.
pub fn write_json(plan: &Plan, estimate: &Estimate, mut out: impl Write) -> io::Result<()> {
    let spec = &plan.spec;
    writeln!(out, "{{\"format\":\"vptest-sweep\",\"version\":1,")?;
    writeln!(out, "\"name\":{},\"spec_hash\":\"{}\",", json_string(&spec.name), plan.spec_hash)?;
    let (seed, order, repetitions) = (spec.seed, spec.order.as_str(), spec.repetitions);
    writeln!(out, "\"seed\":{seed},\"order\":\"{order}\",\"repetitions\":{repetitions},")?;
    writeln!(out, "\"counts\":{},", counts(plan))?;
    writeln!(out, "\"estimate\":{},", estimate_json(estimate))?;
    writeln!(out, "\"stop\":{},", or_null(spec.stop.as_ref().map(|stop| stop_json(plan, stop))))?;
    let factors: Vec<String> = spec.factors.iter().map(factor_json).collect();
    writeln!(out, "\"factors\":[{}],", factors.join(","))?;
    writeln!(out, "\"iterations\":[")?;
    let last = plan.iterations.len();
    let mut members = PerColumns::new();
    for (i, iteration) in plan.iter().enumerate() {
        let members = members.of(iteration.tuple, |columns| io::Result::Ok(json_members(columns)))?;
        write_iteration(&mut out, &iteration, members)?;
        out.write_all(if i + 1 < last { b",\n" } else { b"\n" })?;
    }
    writeln!(out, "]}}")
}

fn counts(plan: &Plan) -> String {
    let Counts { combinations, distinct, excluded } = plan.counts;
    let combinations = or_null(combinations.map(|n| n.to_string()));
    let (tuples, iterations) = (plan.tuples.len(), plan.iterations.len());
    format!(
        "{{\"combinations\":{combinations},\"distinct\":{distinct},\"excluded\":{excluded},\
         \"tuples\":{tuples},\"iterations\":{iterations}}}"
    )
}

fn estimate_json(estimate: &Estimate) -> String {
    let seconds = or_null(estimate.time.map(|time| time.as_secs().to_string()));
    let bytes = or_null(estimate.bytes.map(|bytes| bytes.to_string()));
    let longest = estimate.longest.as_secs();
    format!("{{\"seconds\":{seconds},\"longest_seconds\":{longest},\"bytes\":{bytes}}}")
}

fn stop_json(plan: &Plan, stop: &StopSpec) -> String {
    let metrics: Vec<String> = stop.metrics.iter().map(|metric| json_string(metric)).collect();
    // As written in the spec, not as it is to the last bit.
    let percent = (1e11 * stop.half_width.fraction()).round() / 1e9;
    format!(
        "{{\"metrics\":[{}],\"half_width_percent\":{percent},\"min\":{},\"max\":{},\"least_iterations\":{}}}",
        metrics.join(","),
        stop.min,
        plan.spec.repetitions,
        super::least_iterations(plan, stop)
    )
}

fn factor_json(factor: &Factor) -> String {
    let values: Vec<String> = factor.values.iter().map(Value::canonical_json).collect();
    format!("{{\"name\":{},\"values\":[{}]}}", json_string(&factor.name), values.join(","))
}

fn write_iteration(out: &mut impl Write, iteration: &Iteration<'_>, members: &[Vec<String>]) -> io::Result<()> {
    let Iteration { number, identity, tuple_id, tuple, repetition, .. } = iteration;
    write!(
        out,
        "{{\"number\":{number},\"identity\":\"{identity}\",\"tuple\":\"{tuple_id}\",\"repetition\":{repetition},\"block\":"
    )?;
    match iteration.block {
        Some(block) => write!(out, "{block}")?,
        None => write!(out, "null")?,
    }
    if iteration.sentinel {
        out.write_all(b",\"sentinel\":true")?;
    }
    out.write_all(b",\"factors\":{")?;
    for (i, (values, &index)) in members.iter().zip(tuple.indices()).enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        out.write_all(values[index as usize].as_bytes())?;
    }
    out.write_all(b"}}")
}

/// `"name":value` of each factor and value.
fn json_members(columns: &Columns) -> Vec<Vec<String>> {
    let member = |name: &str, value: &Value| format!("{}:{}", json_string(name), value.canonical_json());
    let all = columns.names.iter().zip(&columns.values);
    all.map(|(name, values)| values.iter().map(|value| member(name, value)).collect()).collect()
}

fn or_null(json: Option<String>) -> String {
    json.unwrap_or_else(|| "null".to_owned())
}

/// One command for each iteration, in run order, for `sh`, GNU parallel or a job array. The writer should be buffered.
pub fn write_commands(plan: &Plan, campaign: &Path, mut out: impl Write) -> io::Result<()> {
    let campaign = shell_quoted(campaign);
    for number in 1..=plan.iterations.len() {
        write!(out, "vptest run --iter {number} -o ")?;
        out.write_all(&campaign)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// The path as one word of a POSIX shell that no option parser takes for an option.
fn shell_quoted(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    if bytes.starts_with(b"-") {
        bytes.splice(..0, *b"./");
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return bytes;
    }
    let mut quoted = vec![b'\''];
    for byte in bytes {
        if byte == b'\'' { quoted.extend_from_slice(b"'\\''") } else { quoted.push(byte) }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_a_shell() {
        let quoted = |path: &str| String::from_utf8(shell_quoted(Path::new(path))).unwrap();
        assert_eq!(quoted("out"), "out");
        assert_eq!(quoted("/srv/a-b_c.d"), "/srv/a-b_c.d");
        assert_eq!(quoted("my out"), "'my out'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted("$(reboot)"), "'$(reboot)'");
        assert_eq!(quoted("-o"), "./-o");
        assert_eq!(quoted(""), "''");
        let line = format!("printf %s {}", quoted("a 'b' \"$c\"\n;*"));
        assert_eq!(std::process::Command::new("sh").args(["-c", &line]).output().unwrap().stdout, b"a 'b' \"$c\"\n;*");
    }

    #[test]
    fn csv_fields_are_quoted_where_needed() {
        assert_eq!(csv_field("plain text"), "plain text");
        assert_eq!(csv_field("a,b"), "\"a,b\"");
        assert_eq!(csv_field("say \"x\""), "\"say \"\"x\"\"\"");
    }
}
