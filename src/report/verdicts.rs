//! Verdicts and the numbers behind them, as tables and programs get them.

use serde::Serialize;

use crate::analysis::contrasts::{Basis, Contrast, Hosts, Options, Side, Verdict, Why, Within};
use crate::analysis::judged::Judgement;
use crate::analysis::stats::brunner_munzel::BrunnerMunzel;
use crate::analysis::stats::dominance::Dominance;
use crate::analysis::stats::equivalence::Tost;
use crate::analysis::stats::hosts::Pooled;
use crate::analysis::stats::kolmogorov::KolmogorovSmirnov;
use crate::analysis::stats::mann_whitney::MannWhitney;
use crate::analysis::stats::permutation::Permutation;
use crate::analysis::stats::power::Repetitions;
use crate::analysis::trust::Doubt;
use crate::analysis::{Interval, NoContrast};
use crate::units::Percent;

/// The contrasts that were looked at together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FamilyRow {
    /// Those that could be compared: what verdicts take into account.
    pub contrasts: usize,
    /// Those of them that have a p-value: what p-values are adjusted for.
    pub p_values: usize,
    /// Metrics that were asked for together.
    pub metrics: usize,
    /// Probability of any wrong verdict.
    pub alpha: f64,
    /// Resamples of each bootstrap.
    pub resamples: usize,
    /// Decides on resamples and deals.
    pub seed: u64,
}

impl FamilyRow {
    /// Of what was judged together with these options.
    pub const fn new(judged: &Judgement, options: &Options) -> Self {
        Self {
            contrasts: judged.size,
            p_values: judged.adjusted,
            metrics: judged.metrics.len(),
            alpha: options.alpha,
            resamples: options.resamples,
            seed: options.seed,
        }
    }

    /// For people.
    pub(super) fn note(&self) -> String {
        let metrics = if self.metrics == 1 { "one metric".to_owned() } else { format!("{} metrics", self.metrics) };
        format!(
            "Verdicts and p take into account that {} contrasts of {metrics} were looked at together: any of the verdicts is wrong with a \
             probability of at most {} % (Bonferroni; p by Holm{}).",
            self.contrasts,
            100.0 * self.alpha,
            if self.p_values == self.contrasts {
                String::new()
            } else {
                format!(" over the {} that have one", self.p_values)
            }
        )
    }
}

/// What is known of a metric's groups besides their means.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// For each group its contrast.
    pub contrasts: &'a [Option<Contrast>],
    /// For each group what makes it doubtful.
    pub doubts: &'a [Vec<Doubt>],
    /// Level of the tests behind doubts.
    pub doubt_level: f64,
    /// Differences up to it do not matter.
    pub margin: Percent,
    /// Does the spec say so? Otherwise it is the default.
    pub margin_is_asked: bool,
    /// All that was looked at.
    pub family: FamilyRow,
    /// Names of hosts by the numbers that contrasts have.
    pub hosts: &'a [String],
}

/// One word for a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Beyond the margin.
    Different,
    /// A difference, and within the margin.
    DifferentNegligible,
    /// It cannot be said.
    Undecided,
    /// Within the margin.
    Equivalent,
    /// There is nothing to compare.
    NotComparable,
}

impl Word {
    /// For programs, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Different => "different",
            Self::DifferentNegligible => "different_negligible",
            Self::Undecided => "undecided",
            Self::Equivalent => "equivalent",
            Self::NotComparable => "not_comparable",
        }
    }

    /// As shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Different => "different",
            Self::DifferentNegligible => "different, negligible",
            Self::Undecided => "undecided",
            Self::Equivalent => "equivalent",
            Self::NotComparable => "not comparable",
        }
    }
}

/// A verdict in words: one, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The word.
    pub word: Word,
    /// A few words more for a table.
    pub short: Option<String>,
    /// A sentence; `None` where the word says all.
    pub remark: Option<String>,
}

impl Told {
    /// For a table: `undecided, 37 would do`.
    pub fn cell(&self) -> String {
        match &self.short {
            Some(short) => format!("{}: {short}", self.word.as_str()),
            None => self.word.as_str().to_owned(),
        }
    }
}

/// A verdict in words.
pub fn tell(verdict: &Verdict) -> Told {
    let (word, more) = match verdict {
        Verdict::Different { basis } => (Word::Different, rests_on(*basis)),
        Verdict::DifferentNegligible { basis } => (Word::DifferentNegligible, rests_on(*basis)),
        Verdict::Equivalent { basis } => (Word::Equivalent, rests_on(*basis)),
        Verdict::Undecided { differs, repetitions } => (Word::Undecided, Some(undecided(*differs, *repetitions))),
        Verdict::NotComparable { why } => (Word::NotComparable, Some(reason(why))),
    };
    let (short, remark) = more.unzip();
    Told { word, short, remark }
}

fn rests_on(basis: Basis) -> Option<(String, String)> {
    let (short, remark) = match basis {
        Basis::Means => return None,
        Basis::WithinHosts => ("within hosts", "by the differences within each of several hosts"),
        Basis::Constants => ("constants", "each side always had the same value"),
    };
    Some((short.to_owned(), remark.to_owned()))
}

fn undecided(differs: bool, repetitions: Option<Repetitions>) -> (String, String) {
    let seen = if differs { "there is a difference, of unknown importance; " } else { "" };
    let (short, more) = match repetitions {
        Some(Repetitions::PerSide(n)) => {
            (format!("n ≈ {n}"), format!("about {n} repetitions of each side would decide"))
        }
        Some(Repetitions::TooMany) => {
            ("on the margin".to_owned(), "it lies on the margin: no number of repetitions would decide".to_owned())
        }
        None => ("n unknown".to_owned(), "how many repetitions would decide cannot be said".to_owned()),
    };
    (short, format!("{seen}{more}"))
}

fn reason(why: &Why) -> (String, String) {
    match why {
        Why::TooFew { group, baseline } => {
            ("too few".to_owned(), format!("too few values: {group} against {baseline}; each side needs two"))
        }
        Why::NotFinite { group, baseline } => (
            "not finite".to_owned(),
            format!("values that are no finite numbers: {group} in the group, {baseline} in the baseline"),
        ),
        Why::HostsDisagree => (
            "hosts disagree".to_owned(),
            "on one of the hosts the difference lies beyond the margin, which the mean over hosts does not show"
                .to_owned(),
        ),
        Why::OutOfRange => {
            ("out of range".to_owned(), "the numbers are too large or too far apart to calculate with".to_owned())
        }
        Why::BadMargin => ("margin".to_owned(), "the margin is no number".to_owned()),
    }
}

/// Why two groups were not even tried, in words.
pub fn tell_refusal(why: NoContrast) -> Told {
    let short = match why {
        NoContrast::NoBaseline => "no baseline",
        NoContrast::SeveralBaselines => "several baselines",
        NoContrast::NoMean => "not finite",
        NoContrast::UnequalVantage => "unequal vantage",
        NoContrast::MixedAcceleration => "kvm and tcg",
        NoContrast::SeveralImages => "several images",
    };
    Told { word: Word::NotComparable, short: Some(short.to_owned()), remark: Some(why.as_str().to_owned()) }
}

/// A p-value for people; a dash for none.
pub fn p_text(p: Option<f64>) -> String {
    match p {
        None => "–".to_owned(),
        Some(p) if p < 0.0001 => "<0.0001".to_owned(),
        Some(p) => format!("{p:.4}"),
    }
}

/// Everything of a contrast that is not in [`crate::analysis::TwoSample`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Numbers {
    /// What it shows, and what that rests on.
    pub verdict: Verdict,
    /// Values of the group.
    pub group_side: Side,
    /// Values of the baseline.
    pub baseline_side: Side,
    /// Welch's p adjusted by Holm's method over the family.
    pub p_holm: Option<f64>,
    /// By Benjamini and Hochberg.
    pub p_bh: Option<f64>,
    /// By Benjamini and Yekutieli.
    pub p_by: Option<f64>,
    /// Interval of the difference that covers 1 − α/family.
    pub family_interval: Option<Interval>,
    /// Two one-sided tests against the margin.
    pub tost: Option<Tost>,
    /// BCa interval of the difference.
    pub difference_bca: Option<Interval>,
    /// BCa interval of the percentage.
    pub percent_bca: Option<Interval>,
    /// Cliff's δ and A12.
    pub dominance: Option<Dominance>,
    /// Hodges–Lehmann's shift.
    pub shift: Option<f64>,
    /// Its interval.
    pub shift_ci95: Option<Interval>,
    /// Mann–Whitney's test.
    pub mann_whitney: Option<MannWhitney>,
    /// Brunner–Munzel's test.
    pub brunner_munzel: Option<BrunnerMunzel>,
    /// Kolmogorov–Smirnov's test.
    pub kolmogorov_smirnov: Option<KolmogorovSmirnov>,
    /// Permutation test.
    pub permutation: Option<Permutation>,
    /// What the hosts say; `null` when all values are of one.
    pub hosts: Option<HostsRow>,
}

/// A contrast on several hosts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostsRow {
    /// Has every host the same share of the values of both sides?
    pub balanced: bool,
    /// Does the verdict rest on `within`?
    pub decides: bool,
    /// The difference within hosts.
    pub within: Option<Within>,
    /// The same over all such hosts (random effects).
    pub random: Option<Pooled>,
    /// Of Welch's test that all hosts have the same difference.
    pub homogeneity_p: Option<f64>,
    /// Each host.
    pub each: Vec<HostRow>,
}

/// A contrast on one host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostRow {
    /// Its name.
    pub host: String,
    /// Values of the group.
    pub n: usize,
    /// Values of the baseline.
    pub baseline_n: usize,
    /// Difference of means; `null` when a side has no value.
    pub difference: Option<f64>,
    /// Its interval (Welch).
    pub difference_ci95: Option<Interval>,
}

impl HostsRow {
    fn of(hosts: &Hosts, names: &[String]) -> Self {
        let each = hosts.each.iter().map(|one| HostRow {
            host: names.get(one.host as usize).cloned().unwrap_or_default(),
            n: one.n,
            baseline_n: one.baseline_n,
            difference: one.difference,
            difference_ci95: one.difference_ci95,
        });
        Self {
            balanced: hosts.balanced,
            decides: hosts.decides,
            within: hosts.within,
            random: hosts.random,
            homogeneity_p: hosts.homogeneity_p,
            each: each.collect(),
        }
    }
}

impl Numbers {
    /// Of a contrast; `hosts` are the names by their numbers.
    pub fn of(contrast: &Contrast, hosts: &[String]) -> Self {
        let numbers = contrast.numbers.as_ref();
        Self {
            verdict: contrast.verdict,
            group_side: contrast.group_side,
            baseline_side: contrast.baseline_side,
            p_holm: contrast.p_holm,
            p_bh: contrast.p_bh,
            p_by: contrast.p_by,
            family_interval: contrast.family_interval,
            tost: contrast.tost,
            difference_bca: numbers.and_then(|n| n.difference_bca),
            percent_bca: numbers.and_then(|n| n.percent_bca),
            dominance: numbers.map(|n| n.dominance),
            shift: numbers.and_then(|n| n.shift).filter(|shift| shift.is_finite()),
            shift_ci95: numbers.and_then(|n| n.shift_ci),
            mann_whitney: numbers.and_then(|n| n.mann_whitney),
            brunner_munzel: numbers.and_then(|n| n.brunner_munzel),
            kolmogorov_smirnov: numbers.and_then(|n| n.kolmogorov_smirnov),
            permutation: numbers.and_then(|n| n.permutation),
            hosts: contrast.hosts.as_ref().map(|found| HostsRow::of(found, hosts)),
        }
    }
}

/// Names of [`csv_fields`].
pub(super) const CSV_COLUMNS: [&str; 46] = [
    "verdict",
    "remark",
    "margin_percent",
    "family",
    "p_holm",
    "p_bh",
    "p_by",
    "family_interval_low",
    "family_interval_high",
    "tost_p",
    "median",
    "baseline_n",
    "baseline_mean",
    "baseline_median",
    "difference_bca_low",
    "difference_bca_high",
    "percent_bca_low",
    "percent_bca_high",
    "cliff_delta",
    "cliff_delta_ci95_low",
    "cliff_delta_ci95_high",
    "a12",
    "a12_ci95_low",
    "a12_ci95_high",
    "shift",
    "shift_ci95_low",
    "shift_ci95_high",
    "mann_whitney_u",
    "mann_whitney_p",
    "brunner_munzel_statistic",
    "brunner_munzel_df",
    "brunner_munzel_p",
    "kolmogorov_smirnov_d",
    "kolmogorov_smirnov_p",
    "permutation_p",
    "permutation_method",
    "mann_whitney_method",
    "kolmogorov_smirnov_method",
    "hosts",
    "within_hosts",
    "within_hosts_ci95_low",
    "within_hosts_ci95_high",
    "hosts_i2",
    "hosts_q",
    "hosts_q_p",
    "hosts_homogeneity_p",
];

/// The verdict and the numbers of one group for CSV; what is missing is empty.
pub(super) fn csv_fields(told: Option<&Told>, numbers: Option<&Numbers>, judged: (f64, usize)) -> Vec<String> {
    let word = told.map(|told| told.word.name().to_owned()).unwrap_or_default();
    let remark = told.and_then(|told| told.remark.clone()).unwrap_or_default();
    let mut fields = vec![word, remark, format!("{:?}", judged.0), judged.1.to_string()];
    let Some(n) = numbers else {
        fields.resize(CSV_COLUMNS.len(), String::new());
        return fields;
    };
    let ends = |ci: Option<Interval>| [ci.map(|ci| ci.low), ci.map(|ci| ci.high)];
    let mut all = vec![n.p_holm, n.p_bh, n.p_by];
    all.extend(ends(n.family_interval));
    all.extend([n.tost.map(|t| t.p), n.group_side.median]);
    let count = |n: usize| u32::try_from(n).ok().map(f64::from);
    all.extend([count(n.baseline_side.n), n.baseline_side.mean, n.baseline_side.median]);
    all.extend(ends(n.difference_bca));
    all.extend(ends(n.percent_bca));
    all.push(n.dominance.map(|d| d.cliff_delta));
    all.extend(ends(n.dominance.and_then(|d| d.cliff_delta_ci)));
    all.push(n.dominance.map(|d| d.a12));
    all.extend(ends(n.dominance.and_then(|d| d.a12_ci)));
    all.push(n.shift);
    all.extend(ends(n.shift_ci95));
    all.extend([n.mann_whitney.map(|t| t.u), n.mann_whitney.map(|t| t.p)]);
    let bm = n.brunner_munzel;
    all.extend([bm.map(|t| t.statistic), bm.map(|t| t.df), bm.map(|t| t.p)]);
    all.extend([n.kolmogorov_smirnov.map(|t| t.d), n.kolmogorov_smirnov.map(|t| t.p)]);
    all.push(n.permutation.map(|t| t.p));
    fields.extend(all.into_iter().map(|x| x.map(|x| format!("{x:?}")).unwrap_or_default()));
    let method = |value: Option<serde_json::Value>| {
        value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    fields.push(method(n.permutation.and_then(|t| serde_json::to_value(t.method).ok())));
    fields.push(method(n.mann_whitney.and_then(|t| serde_json::to_value(t.method).ok())));
    fields.push(method(n.kolmogorov_smirnov.and_then(|t| serde_json::to_value(t.method).ok())));
    fields.extend(host_fields(n.hosts.as_ref()));
    fields
}

fn host_fields(hosts: Option<&HostsRow>) -> [String; 8] {
    let number = |x: Option<f64>| x.map(|x| format!("{x:?}")).unwrap_or_default();
    let within = hosts.and_then(|hosts| hosts.within);
    let random = hosts.and_then(|hosts| hosts.random);
    let ci = within.and_then(|within| within.difference_ci95);
    [
        hosts.map(|hosts| hosts.each.len().to_string()).unwrap_or_default(),
        number(within.map(|within| within.difference)),
        number(ci.map(|ci| ci.low)),
        number(ci.map(|ci| ci.high)),
        number(random.and_then(|random| random.i2)),
        number(random.map(|random| random.q)),
        number(random.and_then(|random| random.q_p)),
        number(hosts.and_then(|hosts| hosts.homogeneity_p)),
    ]
}

/// A doubt about a group in one line; `describe` writes amounts in the metric's unit.
pub(super) fn doubt_text(doubt: &Doubt, describe: &dyn Fn(f64) -> String) -> String {
    let p = |p: &f64| if *p < 0.0001 { "p < 0.0001".to_owned() } else { format!("p = {p:.4}") };
    match doubt {
        Doubt::Drift { change, p: level } => {
            format!(
                "values drift by {} from the first to the last repetition (Mann–Kendall {})",
                describe(*change),
                p(level)
            )
        }
        Doubt::Dependence { lag1, p: level } => {
            format!("values depend on those before them (autocorrelation {lag1:+.2}, Ljung–Box {})", p(level))
        }
        Doubt::Jump { at, p: level } => format!("the level changes at repetition {} (Pettitt {})", at + 1, p(level)),
        Doubt::Outliers { n: 1 } => "1 value lies far out; it counts all the same".to_owned(),
        Doubt::Outliers { n } => format!("{n} values lie far out; they count all the same"),
        Doubt::Humps { p: level } => format!("the values have more than one hump (dip test {})", p(level)),
        Doubt::HostsUneven { decides, within, within_ci95 } => {
            let spread =
                "the values of both sides are unequally spread over hosts, so the difference is also one between hosts";
            let interval = within_ci95.map(|ci| format!(" (95 %: {} … {})", describe(ci.low), describe(ci.high)));
            match (within, decides) {
                (Some(within), true) => {
                    let interval = interval.unwrap_or_default();
                    format!(
                        "{spread}; within hosts it is {}{interval}, and the verdict rests on that",
                        describe(*within)
                    )
                }
                (_, true) => format!("{spread}; the verdict rests on differences within hosts"),
                (_, false) => format!("{spread}, and no host has enough values of both to tell"),
            }
        }
        Doubt::HostsDiffer { i2, p: level } => {
            let share = i2.map(|i2| format!("I² = {:.0} %, ", 100.0 * i2)).unwrap_or_default();
            format!("the difference from the baseline is not the same on all hosts ({share}{})", p(level))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_is_told() {
        let cell = |verdict| tell(&verdict).cell();
        let basis = Basis::Means;
        assert_eq!(cell(Verdict::Different { basis }), "different");
        assert_eq!(cell(Verdict::DifferentNegligible { basis }), "different, negligible");
        assert_eq!(cell(Verdict::Equivalent { basis: Basis::Constants }), "equivalent: constants");
        let repetitions = Some(Repetitions::PerSide(37));
        let undecided = tell(&Verdict::Undecided { differs: true, repetitions });
        assert_eq!(undecided.cell(), "undecided: n ≈ 37");
        assert!(undecided.remark.unwrap().starts_with("there is a difference"));
        assert_eq!(cell(Verdict::Undecided { differs: false, repetitions: None }), "undecided: n unknown");
        assert_eq!(
            cell(Verdict::NotComparable { why: Why::TooFew { group: 1, baseline: 2 } }),
            "not comparable: too few"
        );
        assert_eq!(tell_refusal(NoContrast::UnequalVantage).cell(), "not comparable: unequal vantage");
        assert!(Word::Different < Word::Undecided && Word::Undecided < Word::NotComparable);
    }
}
