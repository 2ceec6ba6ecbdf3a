"""Regimes: the trajectories that a run may use, and the held-out ones among them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from proco_jax.config.schema import DataConfig
from proco_jax.data.checks import DataError


class Split(NamedTuple):
    """Indices of episodes, each in ascending order.

    Attributes:
      train: training data.
      holdout: kept by the regime, but not used for training.
      dropped: left out by the regime; used for diagnosis only.
    """

    train: list[int]
    holdout: list[int]
    dropped: list[int]


def split_episodes(cost_returns: Sequence[float], config: DataConfig) -> Split:
    """Applies the regime, then the holdout split; both are determined by the seed.

    Args:
      cost_returns: the summed cost of every trajectory.
      config: regime, shares and seed.

    Raises:
      DataError: if the regime keeps fewer than two trajectories.
    """
    costs = np.asarray(cost_returns, dtype=np.float64)
    safe, violating = np.flatnonzero(costs == 0), np.flatnonzero(costs > 0)
    rng = np.random.default_rng([config.seed, 0])
    kept = np.sort(np.concatenate([safe, _violating_kept(rng, safe, violating, config)]))
    if len(kept) < 2:
        raise DataError(_too_few(costs, len(kept), config))
    order = np.random.default_rng([config.seed, 1]).permutation(kept)
    count = _holdout_count(len(kept), config.holdout_share)
    dropped = np.setdiff1d(np.arange(len(costs)), kept)
    return Split(
        train=sorted(order[count:].tolist()),
        holdout=sorted(order[:count].tolist()),
        dropped=dropped.tolist(),
    )


def _violating_kept(
    rng: np.random.Generator, safe: np.ndarray, violating: np.ndarray, config: DataConfig
) -> np.ndarray:
    if config.regime == "safe":
        return violating[:0]
    if config.regime == "full":
        return violating
    share = config.limited_share
    if share >= 1:
        raise DataError(
            f"--config.data.limited_share: found {share}, expected a share below 1 of violating "
            "trajectories among the kept (--config.data.regime=full keeps all)"
        )
    # share = v / (s + v), solved for v; a share above 0 keeps at least one trajectory.
    wanted = max(round(share * len(safe) / (1 - share)), 1 if share > 0 and len(safe) else 0)
    return rng.permutation(violating)[:wanted]


def _holdout_count(kept: int, share: float) -> int:
    """At least one trajectory on either side, unless the share is 0."""
    return min(max(round(share * kept), 1), kept - 1) if share > 0 else 0


def _too_few(costs: np.ndarray, kept: int, config: DataConfig) -> str:
    if not len(costs):
        return "the dataset has no episodes; collect or import another"
    remedies = ["logs with more episodes"]
    if config.source == "collect":
        remedies = ["more episodes (--config.data.episodes)"]
        if config.collect.behavior == "controllers":
            remedies.append("a more cautious mixture (--config.data.collect.gains='(2.,3.)')")
    safe = int((costs == 0).sum())
    if config.regime != "full" and safe < len(costs):
        # `limited` keeps violating episodes in proportion to the others.
        limited = config.regime == "safe" and safe
        remedies.append(f"--config.data.regime={'limited or full' if limited else 'full'}")
    return (
        f"the regime {config.regime!r} keeps {kept} of {len(costs)} episodes, expected at least 2; "
        f"{safe} have no cost, and the lowest costs are "
        f"{', '.join(f'{c:g}' for c in np.sort(costs)[:3])}. Use {', or '.join(remedies)}"
    )
