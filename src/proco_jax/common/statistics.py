"""Statistics of scores, as plain NumPy."""

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A statistic and the bounds of its confidence interval."""

    point: float
    low: float
    high: float


def interquartile_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The mean of the middle half of the values.

    A quarter of the values, rounded down, is dropped at either end; the
    interquartile mean of up to three values is their mean. Source: Agarwal et al.
    2021, "Deep RL at the Edge of the Statistical Precipice".

    Args:
      values: any shape with at least one value along `axis`.
      axis: the axis to reduce; None for all values together.

    Raises:
      ValueError: if there is no value.
    """
    values = np.asarray(values, dtype=np.float64)
    if axis is None:
        values, axis = values.reshape(-1), 0
    count = values.shape[axis]
    if count == 0:
        raise ValueError("the interquartile mean of no values is undefined")
    cut = count // 4
    middle = np.take(np.sort(values, axis=axis), np.arange(cut, count - cut), axis=axis)
    return middle.mean(axis=axis)


def stratified_bootstrap(
    scores: Sequence[Sequence[float]] | np.ndarray,
    statistic: Callable[..., np.ndarray] = interquartile_mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    fixed_seeds: bool = False,
) -> Interval:
    """A percentile bootstrap interval of a statistic over seeds x episodes.

    The strata are the policy seeds: an episode is only replaced by an episode of
    the same policy. The policies are resampled as well, since they vary from one
    training run to another; with `fixed_seeds` they are not, and the interval
    holds for these policies alone.

    Args:
      scores: `[S, episodes]`, one row a policy seed, one column an episode.
      statistic: called as `statistic(samples [R, S * episodes], axis=1)`, and
        once on the scores themselves; returns `[R]`.
      confidence: mass of the interval, in (0, 1).
      resamples: bootstrap samples R.
      seed: of the resampling; the same arguments give the same interval.
      fixed_seeds: resample the episodes only.

    Raises:
      ValueError: if the scores are not a finite `[S, episodes]` table, or the
        confidence is not in (0, 1).
    """
    table = _score_table(scores)
    tails = _tails(confidence)
    samples = _resampled(table, np.random.default_rng(seed), resamples, fixed_seeds)
    estimates = statistic(samples.reshape(resamples, -1), axis=1)
    low, high = np.quantile(estimates, tails)
    point = statistic(table.reshape(1, -1), axis=1)[0]
    return Interval(float(point), float(low), float(high))


def paired_bootstrap(
    scores: Sequence[Sequence[float]] | np.ndarray,
    baseline: Sequence[Sequence[float]] | np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of `scores - baseline` with a percentile bootstrap interval.

    Both tables are resampled with the same indices, first of seeds, then of
    episodes within each seed. What a pair of episodes shares, e.g. the layout of
    the world, therefore cancels.

    Args:
      scores: `[S, episodes]`.
      baseline: `[S, episodes]` with the same seeds and episodes in the same order.
      confidence, resamples, seed: as for `stratified_bootstrap`.

    Raises:
      ValueError: if the tables differ in shape, or as for `stratified_bootstrap`.
    """
    scores, baseline = _score_table(scores), _score_table(baseline)
    if scores.shape != baseline.shape:
        raise ValueError(
            f"paired scores need tables of one shape, found {scores.shape} and {baseline.shape}"
        )
    return stratified_bootstrap(
        scores - baseline, np.mean, confidence=confidence, resamples=resamples, seed=seed
    )


def probability_of_improvement(
    scores: Sequence[Sequence[Sequence[float]] | np.ndarray],
    baselines: Sequence[Sequence[Sequence[float]] | np.ndarray],
    *,
    lower_is_better: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Probability that a run is better than a run of the baseline, and its bootstrap interval.

    A run is a policy seed, its score the mean of its episodes. Each run is compared with each run
    of the baseline on the same task, a tie counts half (the Mann-Whitney statistic), and tasks
    weigh the same. With S and B seeds on one task it is a multiple of 1 / (2 S B). Source: Agarwal
    et al. 2021, "Deep RL at the Edge of the Statistical Precipice", section 4.3.

    Args:
      scores: `[S, episodes]` for each task.
      baselines: `[B, episodes]` for each task, in the same order.
      lower_is_better: for costs.
      confidence, resamples, seed: as for `stratified_bootstrap`; both sides are resampled
        independently of each other.

    Raises:
      ValueError: if there is no task, the numbers of tasks differ, or as for
        `stratified_bootstrap`.
    """
    if len(scores) != len(baselines) or not len(scores):
        raise ValueError(
            "the probability of improvement needs the same tasks on both sides, at least one; "
            f"found {len(scores)} and {len(baselines)}"
        )
    tails = _tails(confidence)
    rng = np.random.default_rng(seed)
    sign = -1.0 if lower_is_better else 1.0
    points, estimates = [], []
    for one, other in zip(scores, baselines, strict=True):
        one, other = sign * _score_table(one), sign * _score_table(other)
        points.append(_better(one[None], other[None])[0])
        drawn = (_resampled(table, rng, resamples, False) for table in (one, other))
        estimates.append(_better(*drawn))
    low, high = np.quantile(np.mean(estimates, axis=0), tails)
    return Interval(float(np.mean(points)), float(low), float(high))


def performance_profile(
    scores: Sequence[Sequence[Sequence[float]] | np.ndarray],
    thresholds: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of episodes whose score is at most each threshold, with pointwise intervals.

    Tasks weigh the same. Source: as of `probability_of_improvement`, section 4.1, with shares below
    a threshold in place of those above it.

    Args:
      scores: `[S, episodes]` for each task, at least one.
      thresholds: `[K]` in ascending order.
      confidence, resamples, seed: as for `stratified_bootstrap`.

    Returns:
      Shares and the bounds of their intervals, each `[K]`.

    Raises:
      ValueError: if there is no task, the thresholds do not ascend, or as for
        `stratified_bootstrap`.
    """
    thresholds = np.asarray(thresholds, np.float64)
    if not len(scores) or thresholds.size == 0 or np.any(np.diff(thresholds) < 0):
        raise ValueError(
            "a performance profile needs at least one task and ascending thresholds, found "
            f"{len(scores)} tasks and {thresholds}"
        )
    tails = _tails(confidence)
    rng = np.random.default_rng(seed)
    shares, estimates = [], []
    for one in scores:
        # The first threshold that a score does not exceed.
        first = np.searchsorted(thresholds, _score_table(one))
        shares.append(_cumulative_shares(first[None], thresholds.size)[0])
        drawn = _resampled(first, rng, resamples, False)
        estimates.append(_cumulative_shares(drawn, thresholds.size))
    low, high = np.quantile(np.mean(estimates, axis=0), tails, axis=0)
    return np.mean(shares, axis=0), low, high


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share of independent trials and its score interval.

    Unlike a bootstrap interval it has a width where all trials agree. Source: Wilson 1927,
    "Probable Inference, the Law of Succession, and Statistical Inference".

    Raises:
      ValueError: if there is no trial, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"found {successes} successes in {trials} trials, expected 0 to trials")
    _, upper = _tails(confidence)
    z = NormalDist().inv_cdf(upper)
    share = successes / trials
    center = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + (z / 2 / trials) ** 2)
    # Rounding would leave bounds beyond 0 and 1 by 1e-17.
    return Interval(share, float(max(0.0, center - half)), float(min(1.0, center + half)))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative; a tie counts half.

    Args:
      scores: `[N]` finite, higher meaning more positive.
      positive: `[N]` bool.

    Returns:
      A number in [0, 1]; NaN if one of the classes is empty.

    Raises:
      ValueError: if the shapes differ or a score is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    positive = np.asarray(positive, dtype=bool)
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise ValueError(
            f"AUROC needs scores [N] and positive [N], found {scores.shape} and {positive.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"AUROC: {int((~np.isfinite(scores)).sum())} of the scores are not finite")
    positives = int(positive.sum())
    negatives = scores.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    rank_sum = _average_ranks(scores)[positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "max": 1}


def recall_and_precision(
    predicted: np.ndarray, true: np.ndarray
) -> tuple[float | None, float | None]:
    """Recall and precision of predictions `[M]` bool.

    Recall is None if nothing is true, precision is None if nothing is predicted.
    """
    both = float((predicted & true).sum())
    recall = both / float(true.sum()) if true.any() else None
    precision = both / float(predicted.sum()) if predicted.any() else None
    return recall, precision


def quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The `QUANTILES` of the values by name, linearly interpolated, and their mean.

    Raises:
      ValueError: if there is no value, or one is not finite.
    """
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"quantiles need at least one value, all finite; found {values[:5]}")
    found = np.quantile(values, list(QUANTILES.values()))
    named = {name: float(value) for name, value in zip(QUANTILES, found, strict=True)}
    return named | {"mean": float(values.mean())}


def _tails(confidence: float) -> tuple[float, float]:
    """The quantiles that bound the middle mass of a distribution."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: found {confidence}, expected a number between 0 and 1")
    return (1 - confidence) / 2, (1 + confidence) / 2


def _resampled(
    table: np.ndarray, rng: np.random.Generator, resamples: int, fixed_seeds: bool
) -> np.ndarray:
    """Bootstrap samples `[R, S, episodes]` of seeds, and within each of its episodes."""
    policies, episodes = table.shape
    rows = np.broadcast_to(np.arange(policies), (resamples, policies))
    if not fixed_seeds:
        rows = rng.integers(policies, size=(resamples, policies))
    columns = rng.integers(episodes, size=(resamples, policies, episodes))
    return table[rows[:, :, None], columns]


def _better(scores: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Shares `[R]` of pairs of runs in which the mean of `scores [R, S, E]` is the larger."""
    difference = scores.mean(axis=2)[:, :, None] - baseline.mean(axis=2)[:, None, :]
    # Means of the same numbers in another order differ by rounding errors.
    difference[np.abs(difference) < 1e-9] = 0.0
    return (0.5 * (1 + np.sign(difference))).mean(axis=(1, 2))


def _cumulative_shares(first: np.ndarray, count: int) -> np.ndarray:
    """Shares `[R, K]` of the entries of `first [R, S, E]` that are at most each of 0 ... K-1."""
    flat = first.reshape(len(first), -1)
    cells = flat + (count + 1) * np.arange(len(flat))[:, None]
    counts = np.bincount(cells.reshape(-1), minlength=len(flat) * (count + 1))
    return counts.reshape(len(flat), count + 1)[:, :count].cumsum(axis=1) / flat.shape[1]


def _score_table(scores: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    lengths = sorted({len(row) for row in scores})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError(
            "scores must be a table [S, episodes] with the same number of episodes for every "
            f"seed, found rows of length {lengths}"
        )
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(f"scores must be a finite table [S, episodes], found shape {table.shape}")
    return table


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks `[N]` from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
