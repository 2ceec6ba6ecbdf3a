"""Diagnosis of cost network, rollouts and critics on episodes that they were not trained on.

True costs of dropped trajectories are read here and nowhere in training.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.algorithms import feasibility
from proco_jax.augmentation import rollouts
from proco_jax.common.batching import in_blocks, spread
from proco_jax.common.compiler import jit_compile_fast
from proco_jax.common.statistics import auroc, recall_and_precision
from proco_jax.diagnostics.dynamics_error import Margin
from proco_jax.models import cost
from proco_jax.models.networks import Critic
from proco_jax.types import Array, Episode, LabeledStates

WINDOWS = (1, 10, 25, 50)
MOST_ROWS = 20000


def cost_agreement(
    net: Critic, model: cost.CostModel, episodes: Sequence[Episode]
) -> dict[str, float | None]:
    """Recall and precision of the cost network against the simulator's cost.

    Returns:
      `true_recall` and `true_precision`, None where nothing was unsafe.
    """
    if not episodes:
        return {"true_recall": None, "true_precision": None}
    obs = np.concatenate([e.obs[1:] for e in episodes])
    true = np.concatenate([e.cost for e in episodes]) > 0
    called = unsafe_states(net, model, obs)
    recall, precision = recall_and_precision(called, true)
    return {
        "true_recall": recall,
        "true_precision": precision,
        "true_unsafe_states": int(true.sum()),
    }


def label_agreement(called: np.ndarray, labels: LabeledStates) -> dict[str, float | None]:
    """Recall and precision of calls `[M]` against held-out labels."""
    recall, precision = recall_and_precision(called, labels.unsafe >= 0.5)
    return {"recall": recall, "precision": precision}


def unsafe_states(net: Critic, model: cost.CostModel, obs: np.ndarray) -> np.ndarray:
    """What the cost network says of states `[M, O]`, `[M]` bool."""
    return in_blocks(lambda o: _unsafe(net, model, o), obs)


def cost_scores(net: Critic, model: cost.CostModel, obs: np.ndarray) -> np.ndarray:
    """The cost network's scores of states `[M, O]`, `[M]`."""
    return in_blocks(lambda o: _score(net, model, o), obs)


def rollouts_report(imagined: rollouts.Imagined, logged_obs: np.ndarray, normalizer: Any) -> dict:
    """How many trajectories violate, by source of their actions, and their distance to the logs.

    Args:
      imagined: M trajectories.
      logged_obs: `[R, O]` a sample of logged observations.

    Distances are to the nearest logged state of the sample, root mean square
    in normalized units, for the last kept state of each trajectory; beside them
    the same for logged states left out of the sample.
    """
    report = {k.removeprefix("rollouts/"): float(v) for k, v in rollouts.summary(imagined).items()}
    length = np.asarray(imagined.length)
    last = np.asarray(imagined.obs)[np.arange(len(length)), length]
    kept, left_out = logged_obs[::2], logged_obs[1::2]
    return report | {
        "trajectories": len(length),
        "distance_imagined": _quantiles(_nearest(normalizer, last[length > 0], kept)),
        "distance_logged": _quantiles(_nearest(normalizer, left_out, kept)),
    }


def values(nets: feasibility.Networks, params: Any, normalizer: Any, obs: np.ndarray) -> np.ndarray:
    """V_h of raw states `[M, O]` for the critics of every seed, `[S, M]`."""
    found = in_blocks(lambda o: _values(nets, params, normalizer, o), obs)
    return np.moveaxis(found, 0, 1)


def feasibility_report(
    nets: feasibility.Networks,
    params: Any,
    normalizer: Any,
    margin: Margin | None,
    safe: Sequence[Episode],
    violating: Sequence[Episode],
) -> dict[str, Any]:
    """How well V_h predicts violations on unseen episodes.

    Args:
      nets: networks of the critics.
      params: their parameters, leaves `[S, ...]`.
      normalizer: of observations.
      margin: the trivial score to which V_h is compared; None if there is none.
      safe: held-out episodes without violation, in which every state that V_h calls infeasible is
        a false alarm, since the behavior did stay safe.
      violating: unseen episodes with violations.

    Returns:
      Means over seeds: `false_infeasible_share`; AUROC of V_h and of the
      trivial score for "violates within k steps", over states that are safe
      now; and the share of states 10 steps before a violation called
      infeasible. None where there are no such episodes.
    """
    report: dict[str, Any] = {"false_infeasible_share": None, "auroc": {}, "found_10_steps": None}
    if safe:
        obs = _rows(np.concatenate([e.obs[:-1] for e in safe]))
        shares = (values(nets, params, normalizer, obs) > 0).mean(axis=1)
        report["false_infeasible_share"] = float(shares.mean())
        report["false_infeasible_by_seed"] = [float(x) for x in shares]
    if not violating:
        return report
    obs = np.concatenate([e.obs[:-1] for e in violating])
    ahead = np.concatenate([steps_to_violation(e.cost) for e in violating])
    now = np.concatenate([np.append(0.0, e.cost[:-1]) for e in violating]) > 0
    keep = np.flatnonzero(~now)
    keep = keep[spread(len(keep), MOST_ROWS)]
    obs, ahead = obs[keep], ahead[keep]
    vh = values(nets, params, normalizer, obs)
    for window in WINDOWS:
        soon = ahead <= window
        if soon.any() and not soon.all():
            report["auroc"][str(window)] = {
                "v_h": float(np.mean([auroc(v, soon) for v in vh])),
                "trivial": None if margin is None else float(auroc(margin(obs), soon)),
                "share": float(soon.mean()),
            }
    ten = ahead == 10
    if ten.any():
        report["found_10_steps"] = float((vh[:, ten] > 0).mean())
    return report


_unsafe = jit_compile_fast(cost.unsafe, static_argnums=0)
_score = jit_compile_fast(cost.score, static_argnums=0)


@functools.partial(jit_compile_fast, static_argnums=0)
def _values(nets: feasibility.Networks, params: Any, normalizer: Any, obs: Array) -> jax.Array:
    """V_h of raw states `[M, O]`, `[M, S]`."""
    found = jax.vmap(lambda p: feasibility.vh(nets, p, normalizer(obs)))(params)
    return jnp.moveaxis(found, 0, 1)


def steps_to_violation(costs: np.ndarray) -> np.ndarray:
    """For each step, after how many steps the next cost comes; 1 is at once, inf never."""
    ahead, steps = np.inf, np.full(len(costs), np.inf)
    for t in range(len(costs) - 1, -1, -1):
        ahead = 1.0 if costs[t] > 0 else ahead + 1.0
        steps[t] = ahead
    return steps


def _nearest(normalizer: Any, points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances from points to the nearest of others, root mean square over dimensions."""
    a, b = np.asarray(normalizer(points)), np.asarray(normalizer(others))
    dims = max(int(np.sum(np.asarray(normalizer.varies))), 1)
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    return np.sqrt(np.maximum(square.min(axis=1), 0.0) / dims)


def _quantiles(x: np.ndarray) -> dict[str, float]:
    if not len(x):
        return {}
    return {f"{q:.2f}": float(np.quantile(x, q)) for q in (0.1, 0.5, 0.9)}


def _rows(obs: np.ndarray) -> np.ndarray:
    return obs[spread(len(obs), MOST_ROWS)]
