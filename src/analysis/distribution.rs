//! Distribution functions: Student's t from statrs, and the noncentral t that statrs lacks.

use statrs::distribution::{Continuous as _, ContinuousCDF as _, StudentsT};
use statrs::function::beta::beta_reg;
use statrs::function::erf::{erfc, erfc_inv};
use statrs::function::gamma::{gamma_ur, ln_gamma};

/// Quantile of Student's t; `None` unless `df` > 0.
pub(super) fn t_quantile(p: f64, df: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, df).ok()?;
    let mut x = t.inverse_cdf(p);
    // statrs stops at about ten digits; two steps of Newton give the rest.
    for _ in 0..2 {
        let step = (t.cdf(x) - p) / t.pdf(x);
        if step.is_finite() {
            x -= step;
        }
    }
    x.is_finite().then_some(x)
}

/// Two-sided p-value of a Student's t statistic; `None` unless `df` > 0.
pub(super) fn t_two_sided(t: f64, df: f64) -> Option<f64> {
    let p = 2.0 * StudentsT::new(0.0, 1.0, df).ok()?.sf(t.abs());
    p.is_finite().then_some(p.min(1.0))
}

/// P(T ≤ t) of the noncentral t distribution with `df` degrees of freedom (at least 2) and noncentrality `delta`.
///
/// T = (Z + δ)/X with X = √(χ²/df), so P(T ≤ t) = ∫ Φ(t·x − δ)·f(x) dx. The integral is taken by Gauss–Legendre over the
/// ten standard deviations around 1 that hold all of f, in pieces around the place where Φ rises. Unlike the series of
/// AS 243 this neither underflows nor slows down for the large δ that two testbeds with little spread give.
pub(super) fn noncentral_t_cdf(t: f64, df: f64, delta: f64) -> f64 {
    let ln_scale = 2_f64.ln() + 0.5 * df * (0.5 * df).ln() - ln_gamma(0.5 * df);
    let density = |x: f64| (ln_scale + (df - 1.0) * x.ln() - 0.5 * df * x * x).exp();
    let integrand = |x: f64| normal_cdf(t * x - delta) * density(x);
    let spread = 10.0 / (2.0 * df).sqrt();
    let (low, high) = ((1.0 - spread).max(0.0), 1.0 + spread);
    let (rise, width) = if t == 0.0 { (low, 0.0) } else { (delta / t, 8.0 / t.abs()) };
    let cuts = [low, (rise - width).clamp(low, high), (rise + width).clamp(low, high), high];
    cuts.windows(2).filter(|w| w[1] > w[0]).map(|w| gauss_legendre(integrand, w[0], w[1])).sum::<f64>().min(1.0)
}

/// P(Z ≤ z) of the standard normal distribution.
pub(super) fn normal_cdf(z: f64) -> f64 {
    0.5 * erfc(-z / std::f64::consts::SQRT_2)
}

/// P(Z > z), with all its digits in the tail.
pub(super) fn normal_sf(z: f64) -> f64 {
    normal_cdf(-z)
}

/// Quantile of the standard normal distribution; `None` unless 0 < p < 1.
pub(super) fn normal_quantile(p: f64) -> Option<f64> {
    if !(p > 0.0 && p < 1.0) {
        return None;
    }
    let z = -std::f64::consts::SQRT_2 * erfc_inv(2.0 * p);
    let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    // One step of Newton for the last digits.
    let step = if z < 0.0 { (normal_cdf(z) - p) / density } else { ((1.0 - p) - normal_sf(z)) / density };
    Some(if step.is_finite() { z - step } else { z })
}

/// P(X > x) of the χ² distribution; `None` unless `df` > 0 and x ≥ 0.
pub(super) fn chi2_sf(x: f64, df: f64) -> Option<f64> {
    if x == 0.0 && df > 0.0 {
        return Some(1.0);
    }
    (df > 0.0 && x > 0.0 && x.is_finite()).then(|| gamma_ur(0.5 * df, 0.5 * x))
}

/// P(X > x) of the F distribution; `None` unless both degrees of freedom are positive and x ≥ 0.
pub(super) fn f_sf(x: f64, between: f64, within: f64) -> Option<f64> {
    if !(between > 0.0 && within > 0.0 && x >= 0.0 && x.is_finite()) {
        return None;
    }
    Some(beta_reg(0.5 * within, 0.5 * between, within / (within + between * x)))
}

/// P(T > t) of Student's t; `None` unless `df` > 0.
pub(super) fn t_sf(t: f64, df: f64) -> Option<f64> {
    Some(StudentsT::new(0.0, 1.0, df).ok()?.sf(t)).filter(|p| p.is_finite())
}

/// The mean of f(s) for s up to `most`, where s² is χ² over its `df` degrees of freedom: s is what a standard deviation of 1 may
/// be estimated as.
pub(super) fn mean_over_sd(df: f64, most: f64, f: impl Fn(f64) -> f64) -> f64 {
    let ln_scale = 2_f64.ln() + 0.5 * df * (0.5 * df).ln() - ln_gamma(0.5 * df);
    let density = |x: f64| (ln_scale + (df - 1.0) * x.ln() - 0.5 * df * x * x).exp();
    let spread = 10.0 / (2.0 * df).sqrt();
    let (low, high) = ((1.0 - spread).max(0.0), (1.0 + spread).min(most));
    if high <= low {
        return 0.0;
    }
    gauss_legendre(|x| f(x) * density(x), low, high)
}

/// Positive nodes and weights of the 16-point rule (Abramowitz & Stegun, table 25.4).
const NODES: [(f64, f64); 8] = [
    (0.095_012_509_837_637_44, 0.189_450_610_455_068_5),
    (0.281_603_550_779_258_9, 0.182_603_415_044_923_6),
    (0.458_016_777_657_227_4, 0.169_156_519_395_002_54),
    (0.617_876_244_402_643_8, 0.149_595_988_816_576_73),
    (0.755_404_408_355_003, 0.124_628_971_255_533_87),
    (0.865_631_202_387_831_7, 0.095_158_511_682_492_78),
    (0.944_575_023_073_232_6, 0.062_253_523_938_647_89),
    (0.989_400_934_991_649_9, 0.027_152_459_411_754_095),
];

/// Pieces an interval is cut into.
const PANELS: u32 = 8;

fn gauss_legendre(f: impl Fn(f64) -> f64, low: f64, high: f64) -> f64 {
    let half = (high - low) / f64::from(2 * PANELS);
    let panel = |i: u32| {
        let middle = low + half * f64::from(2 * i + 1);
        NODES.iter().map(|(x, w)| w * (f(middle - half * x) + f(middle + half * x))).sum::<f64>() * half
    };
    (0..PANELS).map(panel).sum()
}

/// The integral of [`noncentral_t_cdf`] for many δ: f is taken once for all of them, at places that are close enough for any.
struct Nodes {
    t: f64,
    /// Each with its weight times f.
    places: Vec<(f64, f64)>,
}

/// Standard deviations that Φ may go through in one piece: there 16 points leave errors below 10⁻¹³.
const SMOOTH: f64 = 4.0;

impl Nodes {
    /// `None` where that would take more places than the integral itself does, and for few degrees of freedom, for which f is not
    /// smooth at 0 unless they are whole.
    fn new(t: f64, df: f64) -> Option<Self> {
        if df < 10.0 {
            return None;
        }
        let ln_scale = 2_f64.ln() + 0.5 * df * (0.5 * df).ln() - ln_gamma(0.5 * df);
        let density = |x: f64| (ln_scale + (df - 1.0) * x.ln() - 0.5 * df * x * x).exp();
        let spread = 10.0 / (2.0 * df).sqrt();
        let (low, high) = ((1.0 - spread).max(0.0), 1.0 + spread);
        let pieces = (8..=64).find(|&pieces| t.abs() * (high - low) <= SMOOTH * f64::from(pieces))?;
        let half = (high - low) / f64::from(2 * pieces);
        let piece = |i: i32| {
            let middle = low + half * f64::from(2 * i + 1);
            NODES.iter().flat_map(move |&(x, w)| [(middle - half * x, w * half), (middle + half * x, w * half)])
        };
        let places = (0..pieces).flat_map(piece).map(|(x, w)| (x, w * density(x)));
        Some(Self { t, places: places.filter(|place| place.1 > 0.0).collect() })
    }

    fn cdf(&self, delta: f64) -> f64 {
        let term = |&(x, w): &(f64, f64)| match self.t * x - delta {
            // Beyond, Φ is 0 or 1 to 10⁻¹⁸.
            z if z < -9.0 => 0.0,
            z if z > 9.0 => w,
            z => w * normal_cdf(z),
        };
        self.places.iter().map(term).sum::<f64>().min(1.0)
    }
}

/// The noncentrality for which P(T ≤ t) is `p`; `None` when the search does not converge.
pub(super) fn noncentrality(t: f64, df: f64, p: f64) -> Option<f64> {
    let nodes = Nodes::new(t, df);
    let cdf = |delta: f64| nodes.as_ref().map_or_else(|| noncentral_t_cdf(t, df, delta), |nodes| nodes.cdf(delta));
    let excess = |delta: f64| cdf(delta) - p;
    // The function falls in δ; widen around t until the ends have different signs.
    let mut width = 2.0 * (1.0 + t * t / (2.0 * df)).sqrt();
    let (mut low, mut high) = (t - width, t + width);
    for _ in 0..60 {
        if excess(low) > 0.0 && excess(high) < 0.0 {
            return Some(root(excess, low, high));
        }
        width *= 2.0;
        (low, high) = (t - width, t + width);
    }
    None
}

/// Root of a falling function between `low` and `high` (false position with the Illinois change, then bisection).
fn root(f: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let (mut at_low, mut at_high) = (f(low), f(high));
    for step in 0..200 {
        let middle = if step < 60 { (low * at_high - high * at_low) / (at_high - at_low) } else { 0.5 * (low + high) };
        let value = f(middle);
        if value == 0.0 || (high - low).abs() <= 1e-13 * (1.0 + middle.abs()) {
            return middle;
        }
        let previous = if value > 0.0 { (low, at_low) } else { (high, at_high) };
        if value > 0.0 {
            (low, at_low) = (middle, value);
            at_high *= 0.5;
        } else {
            (high, at_high) = (middle, value);
            at_low *= 0.5;
        }
        if (middle - previous.0).abs() <= 1e-14 * (1.0 + middle.abs()) {
            return middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_taken_once_give_the_same_integral() {
        let mut compared = 0;
        for df in [10.0, 10.5, 18.0, 38.0, 98.0, 398.0, 20_000.0] {
            for t in [-30.0, -3.0, 0.0, 0.5, 2.0, 8.0, 40.0, 120.0] {
                let Some(nodes) = Nodes::new(t, df) else { continue };
                for shift in [-6.0, -2.0, 0.0, 1.0, 5.0] {
                    let delta = t + shift * (1.0 + t * t / (2.0 * df)).sqrt();
                    let (found, whole) = (nodes.cdf(delta), noncentral_t_cdf(t, df, delta));
                    assert!((found - whole).abs() < 1e-12, "df {df}, t {t}, δ {delta}: {found} {whole}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 100, "{compared}");
    }
}
