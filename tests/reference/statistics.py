#!/usr/bin/env python3
"""Reference numbers for src/analysis/stats: writes statistics.json beside itself.

Needs the packages of requirements.txt and R; the versions used are recorded in the output. Large samples are not in the output:
both sides make them from streams.py.
"""
import json
import math
import pathlib
import subprocess
import sys

import diptest
import numpy
import pandas
import pymannkendall
import scipy
import statsmodels
import statsmodels.formula.api as formula
from mpmath import mp
from scipy import stats
from scipy.stats import _resampling
from statsmodels.stats import diagnostic, meta_analysis, multitest, oneway, power, weightstats
from statsmodels.stats.anova import anova_lm
from statsmodels.tsa.stattools import acf

import streams

HERE = pathlib.Path(__file__).parent
rng = numpy.random.default_rng(2019)


def drawn(seed, n, scale=1.0, shift=10.0, levels=None):
    return {"seed": seed, "place": [7], "n": n, "scale": scale, "shift": shift, "levels": levels}


def normal(mean, sd, n, digits=6):
    return [float(v) for v in rng.normal(mean, sd, n).round(digits)]


PAIRS = {
    "plain": ([103.1, 99.8, 101.7, 98.2, 104.4], [95.0, 97.2, 96.1, 94.8, 98.3]),
    "interleaved": ([1.0, 4.0, 6.5, 7.0, 9.0, 12.0], [2.0, 3.0, 5.0, 8.0, 10.0, 11.0]),
    "five_and_six": ([1.1, 2.5, 3.2, 9.1, 9.5], [0.5, 2.0, 4.0, 5.0, 6.0, 7.0]),
    "two_and_two": ([1.0, 1.5], [2.0, 2.25]),
    "three_and_forty": ([10.2, 11.9, 9.4], normal(12, 3, 40)),
    "separated": ([5.0, 6.0, 7.0, 8.5], [1.0, 2.0, 3.5, 4.0, 4.5]),
    "unequal_variance": (normal(1000, 1, 12), normal(1010, 60, 8)),
    "ties": ([1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0], [2.0, 3.0, 3.0, 4.0, 5.0, 5.0]),
    "ties_many": (normal(5, 2, 60, 0), normal(6, 2, 45, 0)),
    "one_constant": ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]),
    "constant_inside": ([1.0, 2.0, 3.0, 4.0], [2.5, 2.5, 2.5]),
    "skewed": ([float(v) for v in rng.lognormal(0, 1, 25).round(6)], [float(v) for v in rng.lognormal(0.3, 1, 30).round(6)]),
    "medium": (normal(50, 5, 49), normal(52, 6, 49)),
    "tiny": ([1.1e-9, 1.3e-9, 1.2e-9], [2.0e-9, 2.2e-9, 1.9e-9, 2.1e-9]),
    "large_offset": ([1e5 + v for v in normal(5, 2, 20, 3)], [1e5 + v for v in normal(6, 2, 20, 3)]),
    "five_and_2000": (drawn(1, 5), drawn(2, 2000, 1.0, 10.4)),
    "hundreds": (drawn(3, 300), drawn(4, 250, 2.0, 10.1)),
    "thousands": (drawn(5, 3000), drawn(6, 2500, 1.3, 10.02)),
    "thousands_tied": (drawn(7, 3000, 1.0, 10.0, 8), drawn(8, 2500, 1.3, 10.05, 8)),
    "hundred_thousand": (drawn(9, 100_000), drawn(10, 100_000, 1.2, 10.003)),
}
MARGINS = {"absolute": 1.5, "relative": 0.05}


def values(side):
    return streams.sample(side) if isinstance(side, dict) else numpy.array(side)


def number(x):
    return None if x is None or not math.isfinite(x) else float(x)


def describe(x):
    return {
        "quantiles": [float(q) for q in numpy.quantile(x, [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])],
        "mad": float(stats.median_abs_deviation(x)),
    }


def mann_whitney(x, y):
    tied = len(set(x) | set(y)) < len(x) + len(y)
    out = {"asymptotic": number(stats.mannwhitneyu(x, y, method="asymptotic").pvalue)}
    few, many = sorted((len(x), len(y)))
    if not tied and (few <= 8 or many < 50):
        out["exact"] = float(stats.mannwhitneyu(x, y, method="exact").pvalue)
    out["u"] = float(stats.mannwhitneyu(x, y, method="asymptotic").statistic)
    return out


def brunner_munzel(x, y):
    with numpy.errstate(all="ignore"):
        result = stats.brunnermunzel(x, y, distribution="t")
    if not math.isfinite(result.statistic):
        return None
    # SciPy tests whether the second is the greater one.
    return {"statistic": -float(result.statistic), "p": float(result.pvalue)}


def smirnov(x, y):
    tied = len(set(x) | set(y)) < len(x) + len(y)
    d = stats.ks_2samp(x, y, method="asymp").statistic
    out = {"d": float(d)}
    if len(x) * len(y) > 1_000_000:
        out["p"] = float(scipy.special.kolmogorov(d * math.sqrt(len(x) * len(y) / (len(x) + len(y)))))
    elif not tied:
        out["p"] = float(stats.ks_2samp(x, y, method="exact").pvalue)
    return out


def cliff(x, y):
    """By the definitions, over the whole matrix of signs where it fits."""
    m, n = len(x), len(y)
    z = stats.norm.ppf(0.975)
    if m * n <= 10_000_000:
        signs = numpy.sign(numpy.subtract.outer(x, y))
        delta, rows, columns, squares = signs.mean(), signs.mean(1), signs.mean(0), ((signs - signs.mean()) ** 2).sum()
    else:
        place = lambda a, b: (numpy.searchsorted(numpy.sort(b), a, "left") + numpy.searchsorted(numpy.sort(b), a, "right")) / len(b) - 1
        rows, columns = place(x, y), -place(y, x)
        delta = rows.mean()
        squares = m * n * (1 - delta**2)
        assert len(numpy.intersect1d(x, y)) == 0
    out = {"delta": float(delta), "a12": float((delta + 1) / 2)}
    if abs(delta) == 1:
        few = min(m, n)
        end = delta * (few - z * z) / (few + z * z)
        return {**out, "ci": sorted([float(delta), float(end)])}
    variance = (n * n * ((rows - delta) ** 2).sum() + m * m * ((columns - delta) ** 2).sum() - squares) / (m * n * (m - 1) * (n - 1))
    variance = max(variance, (1 - delta**2) / (m * n - 1))
    half = z * math.sqrt(variance) * math.sqrt((1 - delta**2) ** 2 + z * z * variance)
    scale = 1 - delta**2 + z * z * variance
    return {**out, "ci": [float(max(-1, (delta - delta**3 - half) / scale)), float(min(1, (delta - delta**3 + half) / scale))]}


def tost(x, y):
    margin = MARGINS["absolute"]
    lower, upper = weightstats.ttost_ind(x, y, -margin, margin, usevar="unequal")[1:]
    low, high = lower[1], upper[1]
    share = MARGINS["relative"]
    # Against multiples of the baseline, which is above zero in all cases.
    above = stats.ttest_ind(x, (1 - share) * y, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind(x, (1 + share) * y, equal_var=False, alternative="less").pvalue
    return {"absolute": [float(low), float(high), float(max(low, high))], "relative": [float(above), float(below), float(max(above, below))]}


def permutation(x, y):
    if math.comb(len(x) + len(y), len(x)) > 10_000:
        return None
    mean_difference = lambda a, b, axis: numpy.mean(a, axis=axis) - numpy.mean(b, axis=axis)
    result = stats.permutation_test((x, y), mean_difference, n_resamples=numpy.inf, vectorized=True)
    return float(result.pvalue)


def bootstrap(x, y, statistic):
    """SciPy's BCa interval on the resamples that vptest draws."""
    resamples, stream = 999, iter((0, 1))

    def ours(sample, n_resamples=None, rng=None, xp=None):
        which, n = next(stream), sample.shape[-1]
        draws = numpy.array([streams.below(n, 1, [1, which, r], n) for r in range(n_resamples)])
        return sample[..., draws]

    original, _resampling._bootstrap_resample = _resampling._bootstrap_resample, ours
    try:
        result = stats.bootstrap((x, y), statistic, n_resamples=resamples, batch=resamples, method="BCa", vectorized=True)
    finally:
        _resampling._bootstrap_resample = original
    ci = result.confidence_interval
    return [float(ci.low), float(ci.high)]


def pair(name, sides):
    x, y = values(sides[0]), values(sides[1])
    small = len(x) * len(y) <= 10_000_000
    out = {"group": sides[0], "baseline": sides[1], "mann_whitney": mann_whitney(x, y), "brunner_munzel": brunner_munzel(x, y),
           "smirnov": smirnov(x, y), "cliff": cliff(x, y), "tost": tost(x, y), "describe": describe(x)}
    out["shift"] = float(numpy.median(numpy.subtract.outer(x, y))) if small else None
    out["permutation"] = permutation(x, y)
    if name in ("three_and_forty", "unequal_variance", "skewed", "medium", "five_and_2000", "hundreds"):
        # Where resamples can have equal means, SciPy's bias depends on how their last bits are rounded.
        difference = lambda a, b, axis: numpy.mean(a, axis=axis) - numpy.mean(b, axis=axis)
        percent = lambda a, b, axis: 100 * (numpy.mean(a, axis=axis) / numpy.mean(b, axis=axis) - 1)
        out["bca"] = {"difference": bootstrap(x, y, difference), "percent": bootstrap(x, y, percent)}
    return out


SERIES = {
    "noise": normal(10, 1, 40),
    "short": [1.0, 2.5, 2.0, 4.0, 3.5, 6.0],
    "drift": [float(v) for v in (numpy.arange(60) * 0.05 + rng.normal(0, 1, 60)).round(4)],
    "ties": [float(v) for v in (numpy.arange(50) * 0.05 + rng.normal(0, 1, 50)).round(0)],
    "jump": normal(5, 1, 30) + normal(8, 1, 25),
    "correlated": [float(v) for v in scipy.signal.lfilter([1], [1, -0.7], rng.normal(0, 1, 100)).round(5)],
    "two_humps": normal(0, 1, 50) + normal(6, 1, 40),
    "long": drawn(11, 1500),
}


def series(side):
    x = values(side)
    n = len(x)
    lags = min(10, n // 5)
    box = diagnostic.acorr_ljungbox(x, lags=[lags])
    kendall = pymannkendall.original_test(x)
    ranks = stats.rankdata(x)
    u = 2 * numpy.cumsum(ranks) - numpy.arange(1, n + 1) * (n + 1)
    inner = numpy.abs(u)[3 : n - 4] if n >= 8 else None
    return {
        "values": side,
        "lag1": float(acf(x, nlags=1, fft=False)[1]),
        "lags": lags,
        "ljung_box": [float(box["lb_stat"].iloc[0]), float(box["lb_pvalue"].iloc[0])],
        "kendall": {"s": float(kendall.s), "z": float(kendall.z), "p": float(2 * stats.norm.sf(abs(kendall.z)))},
        "slope": float(stats.theilslopes(x).slope),
        "pettitt": None if inner is None else {"k": float(inner.max()), "at": int(inner.argmax()) + 4},
        "dip": float(diptest.dipstat(numpy.sort(x))),
        "dip_p": float(diptest.diptest(x)[1]),
    }


def hosts():
    cases = {
        "apart": ([1.0, 3.0, 5.0, 2.0], [0.1, 0.2, 0.15, 0.3]),
        "alike": ([1.0, 1.1, 0.95], [0.1, 0.2, 0.15]),
        "two": ([10.0, 12.0], [1.0, 0.5]),
    }
    out = {}
    for name, (mean, variance) in cases.items():
        result = meta_analysis.combine_effects(numpy.array(mean), numpy.array(variance), method_re="dl")
        # statsmodels does not cut τ² off at zero; there, the fixed effect is what remains.
        cut = result.tau2 < 0
        low, high = result.conf_int(use_t=False)[0 if cut else 1]
        mean_effect, q = result.mean_effect_fe if cut else result.mean_effect_re, result.q
        out[name] = {"values": mean, "variances": variance, "mean": float(mean_effect), "tau2": float(max(result.tau2, 0)),
                     "q": float(q), "q_p": float(stats.chi2.sf(q, len(mean) - 1)), "i2": float(max(result.i2, 0)), "ci": [float(low), float(high)]}
        # Welch's test of equal means takes n values with a variance each; these estimates have variance/n and n - 1 degrees of freedom.
        df = numpy.array([3.0, 7.5, 12.0, 4.0][:len(mean)])
        welch = oneway.anova_generic(numpy.array(mean), numpy.array(variance) * (df + 1), df + 1, use_var="unequal")
        out[name].update({"dfs": df.tolist(), "homogeneity_p": float(welch.pvalue)})
    return out


def within():
    """A difference within hosts: the estimate by least squares with an effect for each host, its error by definition."""
    cases = {
        "simpson": [(normal(100, 1, 9), normal(100, 2, 3)), (normal(150, 1, 4), normal(150, 3, 8))],
        "three": [(normal(10, 1, 2), normal(9, 1, 2)), (normal(12, 2, 5), normal(10, 1, 7)), (normal(5, 1, 12), normal(4, 4, 3))],
    }
    out = {}
    for name, strata in cases.items():
        rows = [{"host": h, "side": s, "y": y} for h, sides in enumerate(strata) for s, values in zip((1, 0), sides) for y in values]
        fit = formula.ols("y ~ C(host) + side", pandas.DataFrame(rows)).fit()
        weights = numpy.array([len(a) * len(b) / (len(a) + len(b)) for a, b in strata])
        weights /= weights.sum()
        parts = [w**2 * numpy.var(side, ddof=1) / len(side) for w, sides in zip(weights, strata) for side in sides]
        dfs = [len(side) - 1 for sides in strata for side in sides]
        variance = sum(parts)
        df = variance**2 / sum(p**2 / d for p, d in zip(parts, dfs))
        estimate = float(fit.params["side"])
        half = stats.t.ppf(0.975, df) * math.sqrt(variance)
        out[name] = {"strata": strata, "estimate": estimate, "error": math.sqrt(variance), "df": float(df), "ci": [estimate - half, estimate + half]}
    return out


def factors():
    """Unbalanced: 3 × 2 × 2 levels, one to five values each."""
    rows = []
    for a in range(3):
        for b in range(2):
            for c in range(2):
                for _ in range(1 + (2 * a + 3 * b + c) % 5):
                    effect = 2 * a + 3 * b + (4 if a == 2 and c == 1 else 0)
                    rows.append(([a, b, c], round(float(100 + effect + rng.normal()), 5)))
    table = pandas.DataFrame([levels + [value] for levels, value in rows], columns=["a", "b", "c", "y"])
    fit = formula.ols("y ~ (C(a) + C(b) + C(c))**2", table).fit()
    result = anova_lm(fit, typ=2)
    total = float(((table.y - table.y.mean()) ** 2).sum())
    effects = []
    for name, row in result.iterrows():
        if name == "Residual":
            continue
        squares, df = float(row["sum_sq"]), int(row["df"])
        noise = fit.mse_resid
        effects.append({"factors": ["abc".index(ch) for ch in name if ch in "abc"], "df": df, "squares": squares, "f": float(row["F"]),
                        "p": float(row["PR(>F)"]), "eta2": squares / total, "omega2": float((squares - df * noise) / (total + noise))})
    return {"levels": [r[0] for r in rows], "values": [r[1] for r in rows], "effects": effects,
            "residual": float(fit.ssr), "residual_df": int(fit.df_resid)}


def powers():
    t_test = [[effect, n, level, float(power.TTestIndPower().power(effect, n, level, 1.0))]
              for effect in (0.1, 0.5, 1.0, 3.0) for n in (2, 5, 30, 400) for level in (0.05, 0.001)]
    # SciPy's noncentral t gives up for large effects in large samples.
    t_test = [row for row in t_test if math.isfinite(row[3])]
    needed = [[effect, level, math.ceil(round(power.TTestIndPower().solve_power(effect, None, level, 0.8, 1.0), 9))]
              for effect in (0.2, 0.5, 0.8, 1.5) for level in (0.05, 0.01)]
    mp.dps = 25

    def exact_tost(difference, margin, n, level):
        df, error = 2 * n - 2, mp.sqrt(mp.mpf(2) / n)
        critical = mp.mpf(stats.t.ppf(1 - level, df))
        ln_scale = mp.log(2) + mp.mpf(df) / 2 * mp.log(mp.mpf(df) / 2) - mp.loggamma(mp.mpf(df) / 2)
        density = lambda s: mp.exp(ln_scale + (df - 1) * mp.log(s) - mp.mpf(df) / 2 * s * s)
        room = lambda s: margin / error - critical * s
        inside = lambda s: mp.ncdf(room(s) - difference / error) - mp.ncdf(-room(s) - difference / error)
        most = margin / error / critical
        points = [mp.mpf("1e-30")] + [p for p in (mp.mpf("0.5"), 1, mp.mpf("1.5"), 2, 4) if p < most] + [min(most, mp.mpf(20))]
        return float(mp.quad(lambda s: inside(s) * density(s), points))

    tost_cases = [[d, m, n, level, exact_tost(d, m, n, level)]
                  for d, m in ((0.0, 1.0), (0.3, 0.8), (0.5, 2.0)) for n in (3, 10, 40, 200) for level in (0.05, 0.001)]
    widths = []
    for half in (0.1, 0.5, 1.0, 2.0):
        n = 2
        while stats.t.ppf(0.975, n - 1) / math.sqrt(n) > half:
            n += 1
        widths.append([half, n])
    return {"t_test": t_test, "needed": needed, "tost": tost_cases, "half_width": widths}


def tails():
    """Distribution functions far out: [arguments..., value]."""
    return {
        "normal_sf": [[z, float(stats.norm.sf(z))] for z in (-8.0, -1.0, 0.0, 0.5, 3.0, 10.0, 30.0)],
        "normal_quantile": [[p, float(stats.norm.ppf(p))] for p in (1e-300, 1e-12, 0.001, 0.3, 0.5, 0.9, 0.999, 1 - 1e-9)],
        "chi2_sf": [[x, k, float(stats.chi2.sf(x, k))] for x, k in ((0.1, 1.0), (3.0, 2.0), (200.0, 10.0), (90.0, 100.0), (900.0, 1000.0))],
        "f_sf": [[f, a, b, float(stats.f.sf(f, a, b))]
                 for f, a, b in ((0.5, 1.0, 5.0), (3.0, 4.0, 20.0), (100.0, 2.0, 1000.0), (1.1, 300.0, 9000.0), (1.0, 1.0, 1e5))],
        "t_sf": [[t, df, float(stats.t.sf(t, df))]
                 for t, df in ((0.0, 3.0), (-2.0, 1.0), (1.96, 1e5), (2.5, 1.7), (40.0, 8.0), (6.0, 2e5), (0.1, 1e6), (-0.3, 199_998.5))],
    }


PS = [0.01, 0.04, 0.03, 0.005, 0.5, 0.5, 1.0, 1e-12, 0.0499, 0.2]


def ask_r(cases):
    text = []
    for name, case in cases.items():
        x, y = values(case["group"]), values(case["baseline"])
        if len(x) * len(y) <= 100_000:
            row = " ".join(map(repr, map(float, x))) + " | " + " ".join(map(repr, map(float, y)))
            text.append(f"{name} ks {row}")
            if "exact" in case["mann_whitney"]:
                text += [f"{name} hl {row}", f"{name} wilcox {row}"]
    text += [f"power:{effect}:{n}:{level} power {n} {effect} {level} | 0" for effect in (0.5, 1.0) for n in (5, 30) for level in (0.05, 0.01)]
    text.append("ps adjust " + " ".join(map(repr, PS)) + " | 0")
    result = subprocess.run(["Rscript", "--vanilla", HERE / "statistics.R"], input="\n".join(text) + "\n", text=True, check=True, capture_output=True)
    out = {}
    for line in result.stdout.splitlines():
        name, task, *numbers = line.split()
        if name == "version":
            out["version"] = f"{task}.{numbers[0]}"
        else:
            out.setdefault(task, {})[name] = [float(n) for n in numbers]
    return out


def main():
    pairs = {name: pair(name, sides) for name, sides in PAIRS.items()}
    r = ask_r(pairs)
    adjusted = {method: [float(p) for p in multitest.multipletests(PS, method=method)[1]] for method in ("holm", "fdr_bh", "fdr_by")}
    versions = {"python": sys.version.split()[0], "R": r.pop("version")}
    for module in (numpy, scipy, statsmodels, diptest, pandas):
        versions[module.__name__] = module.__version__
    versions["pymannkendall"] = pymannkendall.__version__ if hasattr(pymannkendall, "__version__") else "1.4.3"
    out = {"versions": versions, "margins": MARGINS, "pairs": pairs, "series": {n: series(s) for n, s in SERIES.items()}, "hosts": hosts(),
           "factors": factors(), "power": powers(), "tails": tails(), "ps": PS, "adjusted": adjusted, "r": r, "within": within()}
    (HERE / "statistics.json").write_text(json.dumps(out, allow_nan=False, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")


main()
