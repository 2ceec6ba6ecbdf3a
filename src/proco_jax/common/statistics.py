"""Statistics of scores, as plain NumPy."""

from collections.abc import Callable, Sequence
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
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: found {confidence}, expected a number between 0 and 1")
    rng = np.random.default_rng(seed)
    policies, episodes = table.shape
    rows = np.broadcast_to(np.arange(policies), (resamples, policies))
    if not fixed_seeds:
        rows = rng.integers(policies, size=(resamples, policies))
    columns = rng.integers(episodes, size=(resamples, policies, episodes))
    samples = table[rows[:, :, None], columns].reshape(resamples, policies * episodes)
    estimates = statistic(samples, axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
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
