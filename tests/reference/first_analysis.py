#!/usr/bin/env python3
"""Reference numbers for the first analysis, from SciPy: writes first_analysis.json beside itself.

Needs scipy and numpy; the versions used are recorded in the output.
"""
import json
import math
import pathlib
import sys

import numpy
import scipy
from scipy import optimize, special, stats

rng = numpy.random.default_rng(2019)
CASES = {
    "plain": ([103.1, 99.8, 101.7, 98.2, 104.4], [95.0, 97.2, 96.1, 94.8, 98.3]),
    "unequal_n": ([10.2, 11.9, 9.4], list(rng.normal(12, 3, 40).round(6))),
    "unequal_variance": (list(rng.normal(1000, 1, 12).round(6)), list(rng.normal(900, 60, 8).round(6))),
    "two_and_two": ([1.0, 1.5], [2.0, 2.25]),
    "huge_effect": ([500.01, 500.02, 500.015, 500.018], [100.0, 100.01, 100.02, 100.03]),
    "no_effect": (list(rng.normal(50, 5, 100).round(6)), list(rng.normal(50, 5, 100).round(6))),
    "tiny_values": ([1.1e-9, 1.3e-9, 1.2e-9], [2.0e-9, 2.2e-9, 1.9e-9, 2.1e-9]),
    "one_constant": ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]),
    "large_n": (list(rng.normal(7, 1, 500).round(6)), list(rng.normal(7.2, 1.5, 300).round(6))),
}


def summary(x):
    n, mean, sd = len(x), float(numpy.mean(x)), float(numpy.std(x, ddof=1))
    ci = stats.t.interval(0.95, n - 1, mean, sd / math.sqrt(n)) if sd > 0 else (None, None)
    return {"n": n, "mean": mean, "sd": sd, "ci95": [None if c is None else float(c) for c in ci]}


def fieller(x, y):
    a, b = numpy.mean(x), numpy.mean(y)
    va, vb = numpy.var(x, ddof=1) / len(x), numpy.var(y, ddof=1) / len(y)
    r = a / b
    df = (va + r * r * vb) ** 2 / (va**2 / (len(x) - 1) + (r * r * vb) ** 2 / (len(y) - 1))
    t = stats.t.ppf(0.975, df)
    # Solved as the quadratic it is, not by the closed form.
    roots = numpy.roots([b * b - t * t * vb, -2 * a * b, a * a - t * t * va])
    return sorted(float(100 * (root.real - 1)) for root in roots)


def hedges(x, y):
    n1, n2 = len(x), len(y)
    df = n1 + n2 - 2
    pooled = math.sqrt(((n1 - 1) * numpy.var(x, ddof=1) + (n2 - 1) * numpy.var(y, ddof=1)) / df)
    d = (numpy.mean(x) - numpy.mean(y)) / pooled
    correction = math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)
    scale = math.sqrt(1 / n1 + 1 / n2)
    t = d / scale

    def cdf(delta):
        """By adaptive quadrature: scipy.stats.nct loses digits and underflows for large noncentrality."""
        from mpmath import mp, mpf, ncdf, quad, gamma, sqrt, exp, log, loggamma
        mp.dps = 30
        nu, tt, dd = mpf(df), mpf(t), mpf(delta)
        lnc = log(2) + nu / 2 * log(nu / 2) - loggamma(nu / 2)
        f = lambda u: ncdf(tt * u - dd) * exp(lnc + (nu - 1) * log(u) - nu * u * u / 2)
        s = 14 / sqrt(2 * nu)
        lo, hi = max(mpf(10) ** -20, 1 - s), 1 + s
        points = sorted({lo, hi, mpf(1)} | {min(max(dd / tt + k / abs(tt), lo), hi) for k in (-9, -3, 0, 3, 9)})
        return quad(f, points)

    def solve(p):
        w = 6 * math.sqrt(1 + t * t / (2 * df))
        return optimize.brentq(lambda delta: float(cdf(delta) - p), t - w, t + w, xtol=1e-13, rtol=1e-14)

    return float(correction * d), [solve(0.975) * scale, solve(0.025) * scale]


def case(x, y):
    welch = stats.ttest_ind(x, y, equal_var=False)
    ci = welch.confidence_interval(0.95)
    g, g_ci = hedges(x, y)
    return {
        "group": [float(v) for v in x],
        "baseline": [float(v) for v in y],
        "group_summary": summary(x),
        "baseline_summary": summary(y),
        "difference": float(numpy.mean(x) - numpy.mean(y)),
        "difference_ci95": [float(ci.low), float(ci.high)],
        "percent_ci95": fieller(x, y),
        "hedges_g": g,
        "hedges_g_ci95": g_ci,
        "t": float(welch.statistic),
        "df": float(welch.df),
        "p": float(welch.pvalue),
    }


def main():
    import mpmath

    versions = {"python": sys.version.split()[0], "scipy": scipy.__version__, "numpy": numpy.__version__,
                "mpmath": mpmath.__version__}
    out = {"versions": versions, "cases": {name: case(*xy) for name, xy in CASES.items()}}
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(out, indent=1) + "\n")


main()
