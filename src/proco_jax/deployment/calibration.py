"""Calibration of the planner: its margin from the errors of the model, the reward below which it
searches from the logs, its threshold from the violation forecast.

The planner judges imagined states by the rules, widened by a margin for what the model may err. A
larger one keeps a robot further away from what is unsafe, which costs return, so it is no larger
than logs say. Where a policy would earn nothing, the planner searches for more.

A larger threshold lets a policy act more freely and violate more often. The violation forecast
needs neither the simulator nor a true cost, so the threshold is chosen before anything is deployed.
Where the planner has rules, they alone decide unless the forecast says that episodes then violate
too often: critics refuse much that is safe. The filter keeps the Q_h threshold of the config.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.common import sharding
from proco_jax.common.compiler import jit_compile_fast
from proco_jax.common.random_streams import Stream, stream_key
from proco_jax.config.schema import ANY_REWARD, RULES_ALONE
from proco_jax.deployment.acting import Deployed, count_policies
from proco_jax.deployment.violation_bound import conformal_shift
from proco_jax.deployment.violation_forecast import (
    HORIZON,
    SETTLE,
    Counts,
    clustered_interval,
    clustered_share,
    count_violations,
    expected_steps,
)
from proco_jax.models.bonus import BonusModel
from proco_jax.training.loop import Program
from proco_jax.types import Array

# Planner thresholds that are tried beside that of the config, in ascending order.
THRESHOLDS = (4.0, 8.0)
# The largest upper end of a forecast by which the rules alone are deployed: fewer imagined steps
# than those of a few episodes say nothing.
RULES_LIMIT = 0.5
# Rounds of starts at most, while the share by the rules alone is within the target, but too few
# steps were counted to say so.
ROUNDS = 4
# By how much predicted sums of rewards may fall short of those of the logs: a share of the range of
# usual rewards, and of the sum itself.
NOISE, ROUNDING = 1e-3, 1e-5
# Folded, with the index of a round after the first, into the key of a forecast.
FURTHER = 2**30


def planner_margin(
    excesses: Sequence[np.ndarray], coverage: float, least: float, labels: float, most: float
) -> float:
    """By how much the planner widens the rules, in their unit.

    Of held-out logs, the smallest margin that a new excess does not exceed with probability
    `coverage` (split conformal prediction, for exchangeable excesses). Logs of training count
    likewise: errors there are no larger than elsewhere, and held-out stretches are often few. The
    largest of these margins is taken, between `least` and `most`.

    Args:
      excesses: `[M]` of each set of logs, by how much the margins of the rules exceed the predicted
        ones; may be infinite.
      coverage: in [0, 1]; 0 gives `least`, 1 gives `most`.
      least: for what logs do not show, e.g. errors along the actions that a planner seeks.
      labels: the margin of the labels, also that of logs which hold too few excesses to tell.
      most: not below `least`.
    """
    alpha = 1.0 - coverage
    if not 0.0 < alpha < 1.0:
        return most if alpha <= 0.0 else least
    # No more than `most`, so that infinity says that there are too few.
    found = [conformal_shift(np.zeros(len(x)), np.minimum(x, most), alpha) for x in excesses]
    return min(max(least, *(x if x < np.inf else labels for x in found)), most)


def least_reward(
    rewards: Sequence[np.ndarray], usual: tuple[float, float], horizon: int, quantile: float
) -> float:
    """The reward below which the planner searches although the policy's continuation is feasible.

    Args:
      rewards: `[L]` of each logged episode.
      usual: the range of rewards without rare bonuses, to which they are clipped.
      horizon: steps of the planner's sequences.
      quantile: of the sums over so many steps of the logs, in [0, 1].

    Returns:
      0, or the quantile where that is negative, less what rounding and a network's noise may take
      from a prediction; ANY_REWARD for a quantile of 0, or if all episodes are shorter than the
      horizon.
    """
    sums = [
        np.convolve(np.clip(each, *usual), np.ones(horizon), "valid")
        for each in rewards
        if len(each) >= horizon
    ]
    if quantile <= 0.0 or not sums:
        return ANY_REWARD
    slack = NOISE * horizon * (usual[1] - usual[0])
    # A policy that earns something is left alone: in a few steps, more is no better in the end.
    found = min(0.0, float(np.quantile(np.concatenate(sums), quantile)))
    return found - slack - ROUNDING * abs(found)


def forecast_table(
    program: Program,
    deployed: Deployed,
    unsafe: Callable[[Array], Array],
    episodes: Sequence[np.ndarray],
    count: int,
    ends: Callable[[Array], Array] | None = None,
    events: BonusModel | None = None,
) -> list[dict[str, Any]]:
    """The forecast under the planner by the rules alone, with the config's threshold and others.

    Thresholds that cannot be deployed any more are not forecast: none if the rules alone are within
    the target violation rate, and none above one that exceeds it. With a target of 0 none but the
    config's own is. Where the share by the rules alone is within the target, but too few imagined
    steps were counted to tell, up to `ROUNDS` times as many starts are drawn.

    Args:
      program: of the policies.
      deployed: S policies with the state of a shield.
      unsafe: raw obs `[..., O]` to `[...]` bool.
      episodes: `[M, O]` of each held-out episode, the logged states to start from.
      count: starts of each policy in a round.
      ends: raw obs `[..., O]` to `[...]` bool, whether a state ends its episode; None if none does.
      events: the event model of rare bonuses; None for none.

    Returns:
      A row for each threshold of the planner, RULES_ALONE first if it has rules, then the config's
      own, of which one is marked `deployed`.
    """
    config = program.config
    assert deployed.shield is not None
    policies = count_policies(deployed)
    # Episodes of a system of the user's own may be shorter.
    horizon = min(HORIZON, program.task.episode_steps)
    settle = min(SETTLE, horizon // 5)
    obs = np.concatenate(episodes)
    generator = np.random.default_rng(config.seed)
    episode_of = np.repeat(np.arange(len(episodes)), [len(e) for e in episodes])
    # Of each round. All thresholds have the same starts and keys, so that rows differ by the
    # thresholds alone.
    starts = [generator.integers(0, len(obs), (policies, count)) for _ in range(ROUNDS)]

    placed = sharding.for_acting(deployed, policies)

    def key_of(index: int) -> Array:
        """The key of a round."""
        key = stream_key(config.seed, Stream.FORECAST)
        # Small numbers would give the keys of the steps of the first round.
        return jax.random.fold_in(key, FURTHER + index) if index else key

    @jit_compile_fast
    def run(deployed: Deployed, start: Array, threshold: Array, key: Array) -> Counts:
        assert deployed.shield is not None
        shield = deployed.shield._replace(planner_threshold=threshold)
        policy = deployed._replace(shield=shield)
        return count_violations(program, policy, unsafe, start, horizon, settle, key, ends, events)

    def forecast(threshold: float) -> dict[str, Any]:
        """The row of a threshold, of as many rounds as it needs."""
        violating, steps = np.zeros((2, len(episodes)), int)
        ended = 0
        for index, drawn in enumerate(starts):
            start = sharding.for_acting(obs[drawn], policies)
            found = run(placed, start, jnp.float32(threshold), key_of(index))
            # Of all policies, by the episode from which they started.
            of = episode_of[drawn].ravel()
            violating += np.bincount(of, np.ravel(found.violating), len(episodes)).astype(int)
            steps += np.bincount(of, np.ravel(found.steps), len(episodes)).astype(int)
            ended += int(found.ended.sum())
            length = expected_steps(ended, int(steps.sum()), program.task.episode_steps)
            low, high = clustered_interval(violating, steps, length)
            row = {
                "qh_threshold": float(config.shield.qh_threshold),
                "planner_threshold": threshold,
                "violating_episodes": clustered_share(violating, steps, length),
                "interval_low": low,
                "interval_high": high,
                "violating": int(violating.sum()),
                "ended": ended,
                "trajectories": policies * count * (index + 1),
                "steps": int(steps.sum()),
            }
            if not _lacks_evidence(row, target):
                break
        return row

    own = float(config.shield.planner_threshold)
    target, rows = config.shield.target_violation_rate, []
    tried = [own, *THRESHOLDS] if target > 0 else [own]
    if target > 0 and deployed.shield.judge is not None:
        tried.insert(0, RULES_ALONE)
    for threshold in dict.fromkeys(tried):
        if not rows or not _is_beyond(threshold, rows, target):
            rows.append(forecast(threshold))
    chosen = choose(rows, target)
    return [{**row, "deployed": row is chosen} for row in rows]


def choose(rows: Sequence[Mapping[str, Any]], target: float) -> Mapping[str, Any]:
    """The rules alone if their forecast share is within a target, else the largest threshold for
    which the upper end of the forecast, and that of all smaller ones, is.

    Args:
      rows: of `forecast_table`.
      target: share of episodes that may violate; 0 keeps the config's own threshold. If none is
        within it, the smallest is chosen.
    """
    if target <= 0 or _rules_suffice(rows[0], target):
        return rows[0]
    others = [row for row in rows if row["planner_threshold"] < RULES_ALONE]
    ordered = sorted(others, key=lambda row: row["planner_threshold"])
    chosen = ordered[0]
    for row in ordered:
        if not within(row, target):
            break
        chosen = row
    return chosen


def within(row: Mapping[str, Any], target: float) -> bool:
    """Whether the upper end of a forecast's interval is at most a share of episodes."""
    return row["interval_high"] is not None and row["interval_high"] <= target


def _rules_suffice(row: Mapping[str, Any], target: float) -> bool:
    """Whether a row is that of the rules alone, its forecast share is within a target, and enough
    imagined steps were counted to say so."""
    return _rules_may_suffice(row, target) and not _lacks_evidence(row, target)


def _rules_may_suffice(row: Mapping[str, Any], target: float) -> bool:
    """Whether a row is that of the rules alone, and its forecast share is not beyond a target."""
    share = row["violating_episodes"]
    return row["planner_threshold"] >= RULES_ALONE and (share is None or share <= target)


def _lacks_evidence(row: Mapping[str, Any], target: float) -> bool:
    """Whether the rules alone may suffice, but too few imagined steps were counted, or none."""
    none = row["violating_episodes"] is None
    limit = max(target, RULES_LIMIT)
    return _rules_may_suffice(row, target) and (none or row["interval_high"] > limit)


def _is_beyond(threshold: float, rows: Sequence[Mapping[str, Any]], target: float) -> bool:
    """Whether the rules suffice, or a smaller threshold already exceeds a target."""
    smaller = (row for row in rows if row["planner_threshold"] < threshold)
    return _rules_suffice(rows[0], target) or any(not within(row, target) for row in smaller)
