"""Calibration of a shield: which threshold of the planner is deployed, by the violation forecast.

A larger threshold lets a policy act more freely and violate more often. The violation forecast
needs neither the simulator nor a true cost, so the threshold is chosen before anything is deployed.
Where the planner has rules, they alone decide unless the forecast says that episodes then violate
too often: critics refuse much that is safe. A planner may do harm, where its model is wrong about
actions that no log holds. So where nothing is within the target the policy is forecast without it
too, and the planner is deployed if that is no better. The filter keeps the Q_h threshold of the
config.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.common.random_streams import Stream, stream_key
from proco_jax.config.schema import POLICY_ALONE, RULES_ALONE
from proco_jax.deployment.acting import Deployed
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
# Incremented when the same forecasts deploy something else.
CALIBRATION_VERSION = 1


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

    What cannot be deployed any more is not forecast: no threshold if the rules alone are within the
    target violation rate, none above one that exceeds it, and not the policy alone if the planner
    is within it. With a target of 0 only the config's own is.

    Args:
      program: of the policies.
      deployed: S policies with the state of a shield.
      unsafe: raw obs `[..., O]` to `[...]` bool.
      episodes: `[M, O]` of each held-out episode, the logged states to start from.
      count: starts of each policy.
      ends: raw obs `[..., O]` to `[...]` bool, whether a state ends its episode; None if none does.
      events: the event model of rare bonuses; None for none.

    Returns:
      A row for each threshold of the planner, RULES_ALONE first if it has rules, then the config's
      own, POLICY_ALONE last. One is marked `deployed`.
    """
    config = program.config
    assert deployed.shield is not None
    policies = jax.tree.leaves(deployed.algorithm)[0].shape[0]
    # Episodes of a system of the user's own may be shorter.
    horizon = min(HORIZON, program.task.episode_steps)
    settle = min(SETTLE, horizon // 5)
    obs = np.concatenate(episodes)
    drawn = np.random.default_rng(config.seed).integers(0, len(obs), (policies, count))
    episode = np.repeat(np.arange(len(episodes)), [len(e) for e in episodes])[drawn]

    @jax.jit
    def run(deployed: Deployed, start: Array, threshold: Array) -> Counts:
        assert deployed.shield is not None
        shield = deployed.shield._replace(planner_threshold=threshold)
        policy = deployed._replace(shield=shield)
        # The same numbers for all thresholds, so that rows differ by the thresholds alone.
        key = stream_key(config.seed, Stream.FORECAST)
        return count_violations(program, policy, unsafe, start, horizon, settle, key, ends, events)

    # Training may have spread the policies over devices.
    here = jax.device_put((deployed, obs[drawn]), jax.local_devices()[0])
    own = float(config.shield.planner_threshold)
    target, rows = config.shield.target_violation_rate, []
    tried = [own, *THRESHOLDS] if target > 0 else [own]
    if target > 0 and deployed.shield.judge is not None:
        tried.insert(0, RULES_ALONE)

    def forecast(threshold: float) -> dict[str, Any]:
        found = run(*here, jnp.float32(threshold))
        # Of all policies, by the episode from which they started.
        violating, steps = (
            np.bincount(episode.ravel(), np.ravel(x), len(episodes)).astype(int)
            for x in (found.violating, found.steps)
        )
        ended = int(found.ended.sum())
        length = expected_steps(ended, int(steps.sum()), program.task.episode_steps)
        low, high = clustered_interval(violating, steps, length)
        return {
            "qh_threshold": float(config.shield.qh_threshold),
            "planner_threshold": threshold,
            "violating_episodes": clustered_share(violating, steps, length),
            "interval_low": low,
            "interval_high": high,
            "violating": int(violating.sum()),
            "ended": ended,
            "trajectories": policies * count,
            "steps": int(steps.sum()),
        }

    for threshold in dict.fromkeys(tried):
        if not rows or not _is_beyond(threshold, rows, target):
            rows.append(forecast(threshold))
    if not is_within_target(choose(rows, target), target):
        rows.append(forecast(POLICY_ALONE))
    chosen = choose(rows, target)
    return [{**row, "deployed": row is chosen} for row in rows]


def choose(rows: Sequence[Mapping[str, Any]], target: float) -> Mapping[str, Any]:
    """The rules alone if their forecast share is within a target, else the largest threshold for
    which the upper end of the forecast, and that of all smaller ones, is.

    If nothing is within it, what has the least forecast share; of several the smallest threshold,
    and the planner rather than the policy alone.

    Args:
      rows: of `forecast_table`.
      target: share of episodes that may violate; 0 keeps the config's own threshold.
    """
    if target <= 0 or _rules_suffice(rows[0], target):
        return rows[0]
    ordered = sorted(rows, key=lambda row: row["planner_threshold"])
    thresholds = [row for row in ordered if row["planner_threshold"] < RULES_ALONE]
    chosen = None
    for row in thresholds:
        if not within(row, target):
            break
        chosen = row
    return chosen or min(ordered, key=_share_or_all)


def is_within_target(row: Mapping[str, Any], target: float) -> bool:
    """Whether what a row forecasts is within a target; any is within one of 0."""
    return target <= 0 or _rules_suffice(row, target) or within(row, target)


def within(row: Mapping[str, Any], target: float) -> bool:
    """Whether the upper end of a forecast's interval is at most a share of episodes."""
    return row["interval_high"] is not None and row["interval_high"] <= target


def _share_or_all(row: Mapping[str, Any]) -> float:
    """The forecast share, 1 where nothing could be forecast."""
    share = row["violating_episodes"]
    return 1.0 if share is None else share


def _rules_suffice(row: Mapping[str, Any], target: float) -> bool:
    """Whether a row is that of the rules alone, and its forecast share is within a target and not
    without evidence."""
    if row["planner_threshold"] != RULES_ALONE or row["violating_episodes"] is None:
        return False
    limit = max(target, RULES_LIMIT)
    return row["violating_episodes"] <= target and row["interval_high"] <= limit


def _is_beyond(threshold: float, rows: Sequence[Mapping[str, Any]], target: float) -> bool:
    """Whether the rules suffice, or a smaller threshold already exceeds a target."""
    smaller = (row for row in rows if row["planner_threshold"] < threshold)
    return _rules_suffice(rows[0], target) or any(not within(row, target) for row in smaller)
