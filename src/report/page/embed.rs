//! The numbers of the figures, as compact as text can be.
//!
//! JSON in a `<script type="application/json">`, which no browser runs; `<` is written as an escape, so that nothing in it can end
//! the element. Values of iterations are 32-bit floats in base64: seven digits, which no figure shows.

use base64::Engine as _;
use serde_json::{Value, json};

use super::model::{Metric, Model};
use crate::analysis::Interval;
use crate::ids::Better;

/// Digits of numbers in the data.
const DIGITS: usize = 7;

/// The content of the script element.
pub(super) fn data(model: &Model) -> String {
    let mut points: Vec<u8> = Vec::new();
    let metrics: Vec<Value> = model.metrics.iter().map(|metric| of_metric(metric, &mut points)).collect();
    let points = base64::engine::general_purpose::STANDARD.encode(points);
    let data = json!({
        "title": model.title,
        "factors": model.factors,
        "baseline": model.baseline,
        "groups": model.groups,
        "pairs": model.pairs,
        "metrics": metrics,
        "points": points,
        "histograms": model.histograms,
        "series": model.series,
        "chains": model.chains,
    });
    data.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn of_metric(metric: &Metric, points: &mut Vec<u8>) -> Value {
    let offset = points.len() / 4;
    for value in metric.cells.iter().flat_map(|cell| &cell.points) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "values of figures; beyond the range of 32 bits infinite, and not drawn"
        )]
        points.extend((*value as f32).to_le_bytes());
    }
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
