#!/usr/bin/env python3
"""The statistics of `vptest`'s contrasts with SciPy, NumPy and statsmodels, vectorised over metrics where they can be.

analysis.py write FILE [METRICS [GROUPS [ITERATIONS]]]   makes values
analysis.py run FILE [GROUPS-TO-COMPARE]                 all tests of so many groups (default: all) against the first; prints sums and seconds
analysis.py matrices FILE [GROUPS-TO-COMPARE]            the same, but resamples and deals are shared by all metrics of a group and are
                                                         products of matrices, by hand in NumPy: what an expert would write

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


def weights(rng, n):
    """How often each of n values is in each resample, as shares."""
    drawn = rng.integers(0, n, (RESAMPLES, n)) + n * numpy.arange(RESAMPLES)[:, None]
    return numpy.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n


def without_each(x):
    """Means of the rows of x without each of their values."""
    return (x.sum(axis=1, keepdims=True) - x) / (x.shape[1] - 1)


def bca(x, y, rng):
    """Width of the 95 % BCa interval of the difference of means of each row (Efron 1987; jackknife of two samples as SciPy's)."""
    resampled = weights(rng, x.shape[1]) @ x.T - weights(rng, y.shape[1]) @ y.T
    estimate = x.mean(axis=1) - y.mean(axis=1)
    bias = stats.norm.ppf((resampled < estimate).mean(axis=0))
    left = [without_each(x), -without_each(y)]
    third = sum(((m.mean(axis=1, keepdims=True) - m) ** 3).sum(axis=1) / m.shape[1] ** 3 for m in left)
    second = sum(((m.mean(axis=1, keepdims=True) - m) ** 2).sum(axis=1) / m.shape[1] ** 2 for m in left)
    a = third / (6 * second**1.5)
    resampled.sort(axis=0)
    ends = []
    for z in stats.norm.ppf([0.025, 0.975]):
        share = stats.norm.cdf(bias + (bias + z) / (1 - a * (bias + z)))
        place = share * (RESAMPLES - 1)
        low = numpy.floor(place).astype(int)
        high = numpy.minimum(low + 1, RESAMPLES - 1)
        columns = numpy.arange(x.shape[0])
        ends.append(resampled[low, columns] + (place - low) * (resampled[high, columns] - resampled[low, columns]))
    return ends[1] - ends[0]


def permutation(x, y, rng):
    """p of the permutation test of the difference of means of each row."""
    pooled = numpy.concatenate([x, y], axis=1)
    n, m = x.shape[1], y.shape[1]
    deal = numpy.argsort(rng.random((DEALS, n + m)), axis=1) < n
    first = deal.astype(float) @ pooled.T
    difference = first / n - (pooled.sum(axis=1) - first) / m
    observed = x.mean(axis=1) - y.mean(axis=1)
    slack = 1 + 1e-14
    low = ((difference <= observed + abs(observed) * (slack - 1)).sum(axis=0) + 1) / (DEALS + 1)
    high = ((difference >= observed - abs(observed) * (slack - 1)).sum(axis=0) + 1) / (DEALS + 1)
    return numpy.minimum(1, 2 * numpy.minimum(low, high))


def compare_by_matrices(x, y, rng=numpy.random.default_rng(6)):
    out = {}
    out["welch"] = stats.ttest_ind(x, y, axis=1, equal_var=False).pvalue
    out["mann_whitney"] = stats.mannwhitneyu(x, y, axis=1).pvalue
    out["brunner_munzel"] = stats.brunnermunzel(x, y, axis=1).pvalue
    out["kolmogorov_smirnov"] = numpy.array([stats.ks_2samp(a, b, method="exact").pvalue for a, b in zip(x, y)])
    out["bca_width"] = bca(x, y, rng)
    out["permutation"] = permutation(x, y, rng)
    differences = (x[:, :, None] - y[:, None, :]).reshape(x.shape[0], -1)
    assert (abs(numpy.sign(differences).mean(axis=1)) <= 1).all()
    out["shift"] = numpy.median(differences, axis=1, overwrite_input=True)
    return out


def run(path, limit=None, compare=compare):
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
commands = {"write": write, "run": run, "matrices": lambda *given: run(*given, compare=compare_by_matrices)}
commands[command](path, *map(int, rest))
