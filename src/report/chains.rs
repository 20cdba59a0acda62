//! Chains of system calls, as text.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};

use crate::analysis::{ChainComparison, ChainRow, TransitionShift};

/// Transitions of a row that the table shows.
const SHOWN: usize = 8;
/// False-discovery rate at which a transition counts as different.
const RATE: f64 = 0.05;

/// One line for each process name and group, and below each the transitions that differ most.
pub fn table(comparison: &ChainComparison, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width {
        table.set_width(width);
    }
    let mut header = vec!["process".to_owned()];
    header.extend(comparison.by.iter().cloned());
    header.extend(["iterations", "sequences", "repetitions", "divergence", "by chance", "p"].map(str::to_owned));
    table.set_header(header);
    let mut notes = String::new();
    for row in &comparison.rows {
        let mut cells = vec![row.process.clone()];
        cells.extend(values(row));
        let d = &row.determinism;
        cells.extend([d.iterations.to_string(), d.sequences.to_string(), verdict(row)]);
        cells.extend(match &row.divergence {
            Some(d) => [format!("{:.4} bit", d.bits), format!("≤ {:.4}", d.null_p95), Short(d.p).to_string()],
            None => [const { String::new() }; 3],
        });
        table.add_row(cells);
        differences(row, &mut notes);
    }
    format!(
        "{table}\n\nDivergence: Jensen–Shannon divergence of the mean shares of all transitions, 0 to 1 bit; by chance: 95 % of \
         all deals of the iterations\ninto groups of these sizes have less; p: the share of deals with at least as much.\n{notes}"
    )
}

/// A p-value with two digits that count.
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 < 0.001 { write!(f, "{:.1e}", self.0) } else { write!(f, "{:.3}", self.0) }
    }
}

fn values(row: &ChainRow) -> impl Iterator<Item = String> + '_ {
    row.values.iter().map(|value| value.clone().unwrap_or_else(|| "-".to_owned()))
}

fn verdict(row: &ChainRow) -> String {
    row.determinism.verdict.map_or_else(|| "only one".to_owned(), |verdict| verdict.as_str().to_owned())
}

fn differences(row: &ChainRow, out: &mut String) {
    let Some(divergence) = &row.divergence else { return };
    let found: Vec<&TransitionShift> = divergence.transitions.iter().filter(|t| t.q <= RATE).collect();
    let name = std::iter::once(row.process.clone()).chain(values(row)).collect::<Vec<_>>().join(" ");
    let of = divergence.transitions.len();
    // A String takes everything.
    let _ = writeln!(out, "\n{name}: {} of {of} transitions differ at a false-discovery rate of 5 %", found.len());
    for t in found.iter().take(SHOWN) {
        let (share, baseline) = (100.0 * t.share, 100.0 * t.baseline);
        let _ = writeln!(out, "  {} → {}  {share:.2} % instead of {baseline:.2} % (q {})", t.from, t.to, Short(t.q));
    }
    if found.len() > SHOWN {
        let _ = writeln!(out, "  … and {} more (--format csv has all)", found.len() - SHOWN);
    }
}

/// One line for each transition; one with empty cells for a group without a comparison.
pub fn csv(comparison: &ChainComparison) -> String {
    let mut out = String::from("process");
    for factor in &comparison.by {
        let _ = write!(out, ",{}", quoted(factor));
    }
    out.push_str(
        ",iterations,sequences,multisets,repetitions,divergence_bits,null_median,null_p95,p,deals,from,to,share,\
         baseline_share,transition_p,transition_q\n",
    );
    for row in &comparison.rows {
        let d = &row.determinism;
        let verdict = row.determinism.verdict.map_or("", |verdict| verdict.as_str());
        let mut head: Vec<String> = vec![quoted(&row.process)];
        head.extend(row.values.iter().map(|value| quoted(value.as_deref().unwrap_or_default())));
        head.extend([d.iterations.to_string(), d.sequences.to_string(), d.multisets.to_string(), verdict.to_owned()]);
        let head = head.join(",");
        match &row.divergence {
            None => {
                let _ = writeln!(out, "{head},,,,,,,,,,,");
            }
            Some(d) => {
                for t in &d.transitions {
                    let _ = writeln!(
                        out,
                        "{head},{},{},{},{},{},{},{},{},{},{},{}",
                        d.bits, d.null_median, d.null_p95, d.p, d.deals, t.from, t.to, t.share, t.baseline, t.p, t.q
                    );
                }
            }
        }
    }
    out
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Determinism, Divergence, Verdict};

    #[test]
    fn csv_is_rectangular_and_the_table_names_what_differs() {
        let determinism =
            || Determinism { iterations: 4, sequences: 4, multisets: 1, verdict: Some(Verdict::SameMultiset) };
        let shift = |q| TransitionShift {
            from: "read".to_owned(),
            to: "write".to_owned(),
            share: 0.25,
            baseline: 0.5,
            p: q / 2.0,
            q,
        };
        let divergence = Divergence {
            bits: 0.125,
            null_median: 0.01,
            null_p95: 0.02,
            p: 0.0286,
            deals: 70,
            exact: true,
            transitions: vec![shift(0.01), shift(0.5)],
        };
        let row = |value: &str, divergence| ChainRow {
            process: "client a,b".to_owned(),
            values: vec![Some(value.to_owned())],
            determinism: determinism(),
            divergence,
        };
        let comparison = ChainComparison {
            by: vec!["testbed".to_owned()],
            baseline: Some(("testbed".to_owned(), "netns".to_owned())),
            rows: vec![row("netns", None), row("qemu", Some(divergence))],
        };
        let csv = csv(&comparison).replace("\"client a,b\"", "x");
        let widths: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(widths, [17; 4]);
        let table = table(&comparison, None);
        assert!(table.contains("client a,b qemu: 1 of 2 transitions differ"), "{table}");
        assert!(table.contains("read → write  25.00 % instead of 50.00 % (q 0.010)"), "{table}");
    }
}
