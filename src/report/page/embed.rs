//! The numbers of the figures, as compact as text can be.
//!
//! JSON in a `<script type="application/json">`, which no browser runs; `<` is written as an escape, so that nothing in it can end
//! the element. Values of iterations are floats in base64: all their digits in pages of small campaigns, seven in others, which no
//! figure shows and files of a figure's data name.

use base64::Engine as _;
use serde_json::{Value, json};

use super::model::{Metric, Model};
use crate::analysis::Interval;
use crate::ids::Better;

/// Digits of numbers in the data.
const DIGITS: usize = 7;

/// The content of the script element.
pub(super) fn data(model: &Model) -> String {
    let mut points = Points::for_page(model);
    let metrics: Vec<Value> = model.metrics.iter().map(|metric| of_metric(metric, &mut points)).collect();
    let text = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let data = json!({
        "title": model.title,
        "factors": model.factors,
        "baseline": model.baseline,
        "groups": model.groups,
        "pairs": model.pairs,
        "metrics": metrics,
        "points": text(&points.values),
        "exact": points.exact,
        "places": text(&points.places),
        "placeBytes": points.place_bytes,
        "runs": runs(model),
        "histograms": model.histograms,
        "series": model.series,
        "chains": model.chains,
        "sentinels": model.hosts.course,
    });
    data.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Values up to which a page holds all their digits.
const EXACT: usize = 250_000;

/// Values of iterations, and the places of these among the runs of their groups.
struct Points {
    values: Vec<u8>,
    /// All digits, 64 bits each, or else 32 bits: about seven digits.
    exact: bool,
    places: Vec<u8>,
    place_bytes: usize,
    count: usize,
}

impl Points {
    fn for_page(model: &Model) -> Self {
        let all: usize = model.metrics.iter().flat_map(|metric| &metric.cells).map(|cell| cell.points.len()).sum();
        let largest = model.groups.iter().map(|group| group.n).max().unwrap_or(0);
        let place_bytes = if largest <= 1 << 8 {
            1
        } else if largest <= 1 << 16 {
            2
        } else {
            4
        };
        Self { values: Vec::new(), exact: all <= EXACT, places: Vec::new(), place_bytes, count: 0 }
    }

    fn add(&mut self, (value, place): (f64, usize)) {
        if self.exact {
            self.values.extend(value.to_le_bytes());
        } else {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "values of figures; beyond the range of 32 bits infinite, and not drawn"
            )]
            self.values.extend((value as f32).to_le_bytes());
        }
        self.places.extend(&place.to_le_bytes()[..self.place_bytes]);
        self.count += 1;
    }
}

/// Columns of the iterations that count.
fn runs(model: &Model) -> Value {
    let column = |get: &dyn Fn(&super::model::Run) -> Value| model.runs.iter().map(get).collect::<Vec<_>>();
    json!({
        "first": super::build::utc(model.first_ns),
        "number": column(&|run| json!(run.number)),
        "start": column(&|run| rounded(Some(run.start), 9)),
        "block": column(&|run| json!(run.block)),
        "group": column(&|run| json!(run.group)),
    })
}

fn of_metric(metric: &Metric, points: &mut Points) -> Value {
    let offset = points.count;
    metric.cells.iter().flat_map(|cell| &cell.points).for_each(|&point| points.add(point));
    let changes: Vec<_> = metric
        .cells
        .iter()
        .enumerate()
        .filter(|(_, cell)| !cell.changes.is_empty())
        .map(|(g, cell)| (g, &cell.changes))
        .collect();
    let cells = |get: &dyn Fn(&super::model::Cell) -> Value| metric.cells.iter().map(get).collect::<Vec<_>>();
    let of = |get: &dyn Fn(&super::model::Contrast) -> Value| metric.contrasts.iter().map(get).collect::<Vec<_>>();
    let verdicts: String = metric.contrasts.iter().map(|contrast| contrast.verdict.code()).collect();
    json!({
        "name": metric.name,
        "level": metric.level,
        "unit": metric.unit,
        "better": metric.better.map(Better::as_str),
        "margin": metric.margin,
        "offset": offset,
        "counts": metric.cells.iter().map(|cell| cell.points.len()).collect::<Vec<_>>(),
        "changes": changes,
        "levels": cells(&|cell| json!(cell.levels.iter().map(|&level| number(Some(level))).collect::<Vec<_>>())),
        "n": metric.cells.iter().map(|cell| cell.n).collect::<Vec<_>>(),
        "mean": cells(&|cell| number(cell.mean)),
        "sd": cells(&|cell| number(cell.sd)),
        "low": cells(&|cell| low(cell.interval)),
        "high": cells(&|cell| high(cell.interval)),
        "verdicts": verdicts,
        "remark": of(&|c| json!(c.remark)),
        "d": of(&|c| number(c.difference)),
        "dl": of(&|c| low(c.difference_interval)),
        "dh": of(&|c| high(c.difference_interval)),
        "pc": of(&|c| number(c.percent)),
        "pl": of(&|c| low(c.percent_interval)),
        "ph": of(&|c| high(c.percent_interval)),
        "g": of(&|c| short(c.g)),
        "gl": of(&|c| short(c.g_interval.map(|ci| ci.low))),
        "gh": of(&|c| short(c.g_interval.map(|ci| ci.high))),
        "delta": of(&|c| short(c.delta)),
        "p": of(&|c| short(c.p)),
        "holm": of(&|c| short(c.p_holm)),
        "bh": of(&|c| short(c.p_bh)),
        "rank": of(&|c| short(c.p_rank)),
    })
}

fn low(interval: Option<Interval>) -> Value {
    number(interval.map(|ci| ci.low))
}

fn high(interval: Option<Interval>) -> Value {
    number(interval.map(|ci| ci.high))
}

fn number(value: Option<f64>) -> Value {
    rounded(value, DIGITS)
}

fn short(value: Option<f64>) -> Value {
    rounded(value, 4)
}

/// `null` for none, and for what is not finite.
fn rounded(value: Option<f64>, digits: usize) -> Value {
    let Some(x) = value.filter(|x| x.is_finite()) else { return Value::Null };
    let text = format!("{x:.*e}", digits - 1);
    let x: f64 = text.parse().unwrap_or(x);
    #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
    let whole = (x.fract() == 0.0 && x.abs() < 1e15).then_some(x as i64);
    whole.map_or_else(|| json!(x), |whole| json!(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_seven_digits_and_nothing_else_gets_in() {
        let show = |x: f64| number(Some(x)).to_string();
        assert_eq!(show(21.753_512_345), "21.75351");
        assert_eq!(show(3.0), "3");
        assert_eq!(show(-0.000_012_345_678_9), "-0.00001234568");
        assert_eq!(show(1e300), "1e+300");
        assert_eq!(show(f64::NAN), "null");
        assert_eq!(number(None), Value::Null);
    }

    #[test]
    fn nothing_in_the_data_ends_its_element() {
        let model = Model { title: "</script><script>alert(1)//".to_owned(), ..Model::default() };
        let text = data(&model);
        assert!(!text.contains('<') && text.contains("\\u003c/script"), "{text}");
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["title"], "</script><script>alert(1)//");
    }
}
