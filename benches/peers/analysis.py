#!/usr/bin/env python3
"""The statistics of `vptest`'s contrasts with SciPy, NumPy and statsmodels, vectorised over metrics where they can be.

analysis.py write FILE [METRICS [GROUPS [ITERATIONS]]]   makes values
analysis.py run FILE [GROUPS-TO-COMPARE]                 all tests of so many groups (default: all) against the first; prints sums and seconds

Of one process, as SciPy comes. Work is the same for every group, so the time of a few groups can be multiplied.
"""
import sys
import time

start = time.perf_counter()
import numpy
from scipy import stats
from statsmodels.stats.multitest import multipletests

RESAMPLES, DEALS = 10_000, 9_999


def write(path, metrics=300, groups=50, iterations=10_000):
    rng = numpy.random.default_rng(5)
    values = rng.normal(100, 10, (metrics, groups, iterations // groups))
    values[:, 4::5] += 3
    with open(path, "wb") as file:
        numpy.array([metrics, groups, iterations // groups], "<f8").tofile(file)
        values.astype("<f8").tofile(file)


def difference(x, y, axis):
    return numpy.mean(x, axis=axis) - numpy.mean(y, axis=axis)


def compare(x, y):
    """All metrics of one group (metrics × iterations) against the baseline."""
    out = {}
    out["welch"] = stats.ttest_ind(x, y, axis=1, equal_var=False).pvalue
    out["mann_whitney"] = stats.mannwhitneyu(x, y, axis=1).pvalue
    out["brunner_munzel"] = stats.brunnermunzel(x, y, axis=1).pvalue
    out["kolmogorov_smirnov"] = numpy.array([stats.ks_2samp(a, b, method="exact").pvalue for a, b in zip(x, y)])
    # In batches, or the resamples would not fit into memory.
    ci = stats.bootstrap((x, y), difference, axis=1, n_resamples=RESAMPLES, batch=100, method="BCa").confidence_interval
    out["bca_width"] = ci.high - ci.low
    out["permutation"] = numpy.array(
        [stats.permutation_test((a, b), difference, n_resamples=DEALS, batch=500).pvalue for a, b in zip(x, y)])
    out["shift"] = numpy.array([numpy.median(numpy.subtract.outer(a, b)) for a, b in zip(x, y)])
    wins = numpy.array([numpy.sign(numpy.subtract.outer(a, b)).mean() for a, b in zip(x, y)])
    assert (abs(wins) <= 1).all()
    return out


def run(path, limit=None):
    numbers = numpy.fromfile(path, "<f8")
    metrics, groups, n = (int(k) for k in numbers[:3])
    values = numbers[3:].reshape(metrics, groups, n)
    compared = range(1, groups)[:limit]
    results = [compare(values[:, g], values[:, 0]) for g in compared]
    print("contrasts", len(compared) * metrics)
    for name in results[0]:
        print(name, f"{sum(r[name].sum() for r in results):.6f}")
    ps = numpy.concatenate([r["welch"] for r in results])
    print("holm", f"{multipletests(ps, method='holm')[1].sum():.6f}", "bh", f"{multipletests(ps, method='fdr_bh')[1].sum():.6f}")
    print("seconds", f"{time.perf_counter() - start:.3f}")


command, path, *rest = sys.argv[1:]
{"write": write, "run": run}[command](path, *map(int, rest))
