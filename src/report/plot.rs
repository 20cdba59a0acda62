//! The comparison of groups as a forest plot of characters.

use std::fmt::Write as _;

use super::compare::{Analyze, GroupRow};
use super::number::{Column, escape};

/// Columns where the output is no terminal.
const WIDTH: usize = 100;
/// The plot itself is never narrower, whatever the terminal is.
const LEAST: usize = 16;

/// One line of the plot, in the unit of the axis.
struct Line {
    label: String,
    estimate: Option<f64>,
    interval: Option<(f64, f64)>,
    text: String,
}

/// Differences from the baseline with their intervals, or means where nothing is compared; `width` columns at most where given.
pub fn forest(answer: &Analyze, width: Option<u16>) -> String {
    let compared = answer.groups.iter().any(|group| group.contrast.is_some());
    let percent =
        compared && answer.groups.iter().filter_map(|g| g.contrast.as_ref()).all(|c| c.result.percent.is_some());
    let (lines, title) = match (compared, percent) {
        (true, true) => {
            (lines(answer, percent_line), "difference of means (% of the baseline), 95 % intervals".to_owned())
        }
        (true, false) => {
            let column = Column::of(
                &answer.unit,
                answer.groups.iter().map(|g| (g.contrast.as_ref().map(|c| c.result.difference), g.sd)),
            );
            let title = format!("difference of means ({}), 95 % intervals", escape(column.unit()));
            (lines(answer, |group| difference_line(group, &column)), title)
        }
        (false, _) => {
            let column = Column::of(&answer.unit, answer.groups.iter().map(|g| (g.mean, g.sd)));
            let title = format!("mean of {} ({}), 95 % intervals", escape(&answer.metric), escape(column.unit()));
            (lines(answer, |group| mean_line(group, &column)), title)
        }
    };
    draw(&lines, &title, compared, width.map_or(WIDTH, usize::from))
}

fn lines(answer: &Analyze, line: impl Fn(&GroupRow) -> Line) -> Vec<Line> {
    let label = |group: &GroupRow| {
        let value = |name: &String| group.factors[name].as_deref().map_or_else(|| "–".to_owned(), escape);
        let values: Vec<String> = answer.factors.iter().map(value).collect();
        if values.is_empty() { "all".to_owned() } else { values.join("  ") }
    };
    answer.groups.iter().map(|group| Line { label: label(group), ..line(group) }).collect()
}

fn percent_line(group: &GroupRow) -> Line {
    let result = group.contrast.as_ref().map(|contrast| contrast.result);
    let estimate = result.and_then(|r| r.percent);
    let interval = result.and_then(|r| r.percent_ci95).map(|ci| (ci.low, ci.high));
    let text = match (estimate, interval) {
        (Some(x), Some((low, high))) => format!("{x:+.1} % [{low:+.1}, {high:+.1}]"),
        (Some(x), None) => format!("{x:+.1} %"),
        _ => without(group),
    };
    Line { label: String::new(), estimate, interval, text }
}

fn difference_line(group: &GroupRow, column: &Column) -> Line {
    let result = group.contrast.as_ref().map(|contrast| contrast.result);
    let estimate = result.map(|r| r.difference);
    let interval = result.and_then(|r| r.difference_ci95);
    let text = match (estimate, interval) {
        (Some(_), Some(_)) => format!("{} [{}]", column.show(estimate), column.show_interval(interval)),
        (Some(_), None) => column.show(estimate),
        _ => without(group),
    };
    let scaled = interval.map(|ci| (column.scaled(ci.low), column.scaled(ci.high)));
    Line { label: String::new(), estimate: estimate.map(|x| column.scaled(x)), interval: scaled, text }
}

fn mean_line(group: &GroupRow, column: &Column) -> Line {
    let text = match group.ci95 {
        Some(_) => format!("{} [{}]  n {}", column.show(group.mean), column.show_interval(group.ci95), group.n),
        None => format!("{}  n {}", column.show(group.mean), group.n),
    };
    let interval = group.ci95.map(|ci| (column.scaled(ci.low), column.scaled(ci.high)));
    Line { label: String::new(), estimate: group.mean.map(|x| column.scaled(x)), interval, text }
}

fn without(group: &GroupRow) -> String {
    if group.baseline { "baseline".to_owned() } else { group.no_contrast.clone().unwrap_or_else(|| "–".to_owned()) }
}

/// What the axis covers: all estimates, and of the intervals no more than twice as much; `None` without any estimate.
fn range(lines: &[Line], zero: bool) -> Option<(f64, f64)> {
    let estimates = || lines.iter().filter_map(|line| line.estimate).chain(zero.then_some(0.0));
    lines.iter().find_map(|line| line.estimate)?;
    let (low, high) = (estimates().fold(f64::INFINITY, f64::min), estimates().fold(f64::NEG_INFINITY, f64::max));
    let ends = || lines.iter().filter_map(|line| line.interval);
    let (least, most) = (ends().fold(low, |a, i| a.min(i.0)), ends().fold(high, |a, i| a.max(i.1)));
    let span = if high > low { high - low } else { (most - least).max(high.abs() * 0.1).max(f64::MIN_POSITIVE) };
    let (low, high) = (least.max(low - span), most.min(high + span));
    let pad = if high > low { (high - low) * 0.03 } else { span };
    Some((low - pad, high + pad))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a column of a terminal, clamped to its width"
)]
fn draw(lines: &[Line], title: &str, zero: bool, width: usize) -> String {
    let Some((low, high)) = range(lines, zero) else { return "There is nothing to plot.\n".to_owned() };
    let longest = |get: fn(&Line) -> &String| lines.iter().map(|line| get(line).chars().count()).max().unwrap_or(0);
    let label = longest(|line| &line.label).min(width * 2 / 5);
    let text = longest(|line| &line.text);
    // A narrow terminal has room for the plot, or for the numbers: then they are on a line of their own.
    let beside = label + text + LEAST + 4 <= width;
    let columns = width.saturating_sub(label + 2 + if beside { text + 2 } else { 0 }).max(LEAST);
    let at =
        |x: f64| (((x - low) / (high - low) * (columns - 1) as f64).round().clamp(0.0, (columns - 1) as f64)) as usize;
    let mut out = format!("{}{title}\n", " ".repeat(label + 2));
    for line in lines {
        let mut cells = vec![' '; columns];
        if zero {
            cells[at(0.0)] = '│';
        }
        if let Some((from, to)) = line.interval {
            let (a, b) = (at(from), at(to));
            cells[a..=b].fill('─');
            cells[a] = if from < low { '◂' } else { '├' };
            cells[b] = if to > high { '▸' } else { '┤' };
        }
        if let Some(x) = line.estimate {
            cells[at(x)] = '●';
        }
        let name = shortened(&line.label, label);
        let drawn: String = cells.into_iter().collect();
        let row = if beside {
            format!("{name}  {drawn}  {}", line.text)
        } else {
            format!("{name}  {drawn}\n{}{}", " ".repeat(label + 2), line.text)
        };
        // A String takes everything.
        let _ = writeln!(out, "{}", row.trim_end());
    }
    out + &axis(low, high, columns, label + 2, &at)
}

fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return format!("{text}{}", " ".repeat(width - length));
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// A line with ticks at round numbers, and the numbers.
fn axis(low: f64, high: f64, columns: usize, indent: usize, at: &dyn Fn(f64) -> usize) -> String {
    let mut line: Vec<char> = vec!['─'; columns];
    let mut numbers: Vec<char> = vec![' '; columns + 12];
    let mut free = 0;
    for tick in ticks(low, high, columns / 14) {
        let column = at(tick.0);
        line[column] = '┴';
        let start = column.saturating_sub(tick.1.chars().count() / 2).max(free);
        if start + tick.1.chars().count() > numbers.len() || start > column {
            continue;
        }
        tick.1.chars().enumerate().for_each(|(i, c)| numbers[start + i] = c);
        free = start + tick.1.chars().count() + 1;
    }
    let (line, numbers): (String, String) = (line.into_iter().collect(), numbers.into_iter().collect());
    let indent = " ".repeat(indent);
    format!("{indent}{line}\n{indent}{}\n", numbers.trim_end())
}

/// Round numbers between `low` and `high`, each with its text.
fn ticks(low: f64, high: f64, wanted: usize) -> Vec<(f64, String)> {
    let raw = (high - low) / f64::from(u32::try_from(wanted.max(1)).unwrap_or(1));
    if !(raw > 0.0 && raw.is_finite()) {
        return Vec::new();
    }
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|k| k * power).find(|step| *step >= raw).unwrap_or(10.0 * power);
    let decimals = if step < 1.0 { usize::try_from(digits(step)).unwrap_or(0) } else { 0 };
    let mut all = Vec::new();
    let mut k = (low / step).ceil();
    while k * step <= high && all.len() < 40 {
        let x = k * step;
        let x = if x == 0.0 { 0.0 } else { x };
        all.push((x, if x.abs() >= 1e7 || (step < 1e-6) { format!("{x:.1e}") } else { format!("{x:.decimals$}") }));
        k += 1.0;
    }
    all
}

/// Decimals that a step below 1 needs.
#[expect(clippy::cast_possible_truncation, reason = "the exponent of a double lies within -324..=308")]
fn digits(step: f64) -> i32 {
    -(step.log10() + 1e-9).floor() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, estimate: f64, interval: Option<(f64, f64)>) -> Line {
        Line { label: label.to_owned(), estimate: Some(estimate), interval, text: format!("{estimate:+.1} %") }
    }

    #[test]
    fn lines_stand_below_each_other_in_any_width() {
        let lines = [
            line("netns  1", -9.0, Some((-9.5, -8.5))),
            line("netns  10", 3.0, Some((-1.0, 7.0))),
            line("a group with a very long name that no terminal has room for", 0.0, None),
        ];
        for width in [20, 40, 80, 200] {
            let text = draw(&lines, "title", true, width);
            let zero: Vec<usize> =
                text.lines().filter(|l| l.contains('│')).map(|l| l.chars().position(|c| c == '│').unwrap()).collect();
            assert!(zero.windows(2).all(|w| w[0] == w[1]), "{width}\n{text}");
            assert!(text.matches('●').count() == 3, "{width}\n{text}");
            if width >= 40 {
                assert!(text.lines().skip(1).all(|l| l.chars().count() <= width), "{width}\n{text}");
            }
        }
    }

    #[test]
    fn a_huge_interval_is_cut_and_says_so() {
        let text = draw(&[line("a", 1.0, Some((-1e9, 1e9))), line("b", 2.0, Some((1.5, 2.5)))], "", true, 80);
        assert!(text.contains('◂') && text.contains('▸'), "{text}");
        assert!(text.contains('├') && text.contains('┤'), "{text}");
    }

    #[test]
    fn nothing_and_constants_are_said() {
        assert_eq!(draw(&[], "", true, 80), "There is nothing to plot.\n");
        let same = draw(&[line("a", 5.0, None)], "", false, 60);
        assert!(same.contains('●'), "{same}");
        assert!(draw(&[line("a", 0.0, None)], "", true, 60).contains('●'));
    }

    #[test]
    fn ticks_are_round() {
        let texts = |low, high, n| ticks(low, high, n).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(texts(-9.3, 0.5, 5), ["-8", "-6", "-4", "-2", "0"]);
        assert_eq!(texts(0.0, 0.1, 5), ["0.00", "0.02", "0.04", "0.06", "0.08", "0.10"]);
        assert!(texts(1.0, 1.0, 5).is_empty());
    }
}
