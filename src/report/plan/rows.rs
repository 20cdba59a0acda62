//! Every iteration of a plan: CSV, JSON, commands.

use std::io::{self, Write};
use std::path::Path;

use super::Estimate;
use crate::plan::{Counts, Iteration, Plan};
use crate::spec::{Factor, Tuple, Value, json_string};

/// One row for each iteration: number, identity, tuple, repetition, block, then the factors in the order of the spec.
///
/// A group has a column for each member, `request.url`. A factor that means nothing on the row's testbed is empty, as
/// is the block of an order without blocks. RFC 4180 quoting, lines end with a line feed. The writer should be buffered.
pub fn write_csv(plan: &Plan, mut out: impl Write) -> io::Result<()> {
    let columns: Vec<String> = plan.spec.factors.iter().flat_map(columns).collect();
    write!(out, "number,identity,tuple,repetition,block")?;
    for column in &columns {
        write!(out, ",{}", csv_field(column))?;
    }
    writeln!(out)?;
    for iteration in plan.iter() {
        let Iteration { number, identity, tuple_id, repetition, .. } = iteration;
        let block = iteration.block.map(|block| block.to_string()).unwrap_or_default();
        write!(out, "{number},{identity},{tuple_id},{repetition},{block}")?;
        for column in &columns {
            let value = iteration.tuple.get(column).map(Value::to_string).unwrap_or_default();
            write!(out, ",{}", csv_field(&value))?;
        }
        writeln!(out)?;
    }
    Ok(())
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
    let factors: Vec<String> = spec.factors.iter().map(factor_json).collect();
    writeln!(out, "\"factors\":[{}],", factors.join(","))?;
    writeln!(out, "\"iterations\":[")?;
    let last = plan.iterations.len();
    for (i, iteration) in plan.iter().enumerate() {
        let comma = if i + 1 < last { "," } else { "" };
        writeln!(out, "{}{comma}", iteration_json(&iteration))?;
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

fn factor_json(factor: &Factor) -> String {
    let values: Vec<String> = factor.values.iter().map(Value::canonical_json).collect();
    format!("{{\"name\":{},\"values\":[{}]}}", json_string(&factor.name), values.join(","))
}

fn iteration_json(iteration: &Iteration<'_>) -> String {
    let Iteration { number, identity, tuple_id, repetition, .. } = iteration;
    let block = or_null(iteration.block.map(|block| block.to_string()));
    format!(
        "{{\"number\":{number},\"identity\":\"{identity}\",\"tuple\":\"{tuple_id}\",\"repetition\":{repetition},\
         \"block\":{block},\"factors\":{}}}",
        tuple_json(iteration.tuple)
    )
}

fn tuple_json(tuple: &Tuple) -> String {
    let members: Vec<String> =
        tuple.iter().map(|(name, value)| format!("{}:{}", json_string(name), value.canonical_json())).collect();
    format!("{{{}}}", members.join(","))
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
