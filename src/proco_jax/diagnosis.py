"""What each learned part is worth, measured on episodes that it never saw.

Here, and nowhere in training, the true costs of dropped trajectories are read.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax import cost, dynamics, feasibility, rollouts
from proco_jax.networks import Critic, DynamicsNetwork
from proco_jax.observation import ObservationSpec
from proco_jax.statistics import auroc, recall_and_precision
from proco_jax.train import Parts
from proco_jax.types import Array, Dataset, Episode, LabeledStates

STEPS_AHEAD = (1, 5, 10, 20)
WINDOWS = (1, 10, 25, 50)
MOST_ROWS = 20000

Risk = Callable[[np.ndarray], np.ndarray]


def model_fit(
    net: DynamicsNetwork, model: dynamics.Model, train: Dataset, holdout: Dataset
) -> dict[str, dict[str, float]]:
    """One-step R2 on held-out episodes by sensor group, beside two simple predictors.

    R2 is `1 - sum of squared errors / sum of squared changes`, so persistence
    is 0; ridge regression is fitted on the training logs from the same inputs.
    """
    rows = _spread(holdout.size, MOST_ROWS)
    obs, action, change = _changes(holdout, rows)
    predicted, reward = _in_blocks(
        jax.jit(lambda o, a: dynamics.predict_elites(net, model, o, a)), obs, action
    )
    # Averaged over the elites that predict.
    model_change = np.concatenate([predicted.mean(0) - obs, reward.mean(0)[:, None]], axis=1)
    ridge_change = _ridge(model, train, obs, action)
    # The reward is scored as one number, on its own.
    varies = np.append(np.asarray(model.targets.varies)[: obs.shape[1]] > 0, True)
    size = np.append(np.asarray(model.targets.size)[: obs.shape[1]], 1.0)
    report = {}
    for group, index in _groups(net.spec).items():
        index = index[varies[index]]
        if not len(index):
            continue
        total = np.sum((change[:, index] / size[index]) ** 2)
        scores = {
            name: 1.0 - float(np.sum(((p - change)[:, index] / size[index]) ** 2) / total)
            for name, p in (("model", model_change), ("ridge", ridge_change))
        }
        report[group] = scores | {"persistence": 0.0}
    return report


def open_loop(
    net: DynamicsNetwork,
    model: dynamics.Model,
    risk: Risk,
    episodes: Sequence[Episode],
    near: float,
    starts: int = 512,
) -> list[dict[str, float]]:
    """Open-loop prediction of the risk with logged actions, against persistence.

    Args:
      risk: obs `[M, O]` to a signed margin `[M]` in the rule's unit, e.g. minus
        the distance to the nearest hazard.
      episodes: that no part was trained on.
      near: starts have a margin above minus this.
      starts: how many, spread over the episodes.

    Returns:
      A row for each number of steps: mean absolute errors in the rule's unit,
      and the correlation of the predicted with the true change. No row where no
      episode is long enough or comes near.
    """
    horizon = max(STEPS_AHEAD)
    if not any(len(e.reward) > horizon for e in episodes):
        return []
    obs, action = _windows(episodes, horizon)
    close = np.flatnonzero(risk(obs[:, 0]) > -near)
    if not len(close):
        return []
    chosen = close[_spread(len(close), starts)]
    obs, action = obs[chosen], action[chosen]

    @jax.jit
    def walk(start: Array, actions: Array) -> jax.Array:
        def step(o: Array, a: Array) -> tuple[Array, Array]:
            o = dynamics.predict_mean(net, model, o, a)[0]
            return o, o

        return jax.lax.scan(step, start, jnp.moveaxis(actions, 1, 0))[1]

    predicted = np.asarray(walk(obs[:, 0], action))
    now = risk(obs[:, 0])
    rows = []
    for ahead in STEPS_AHEAD:
        true, guess = risk(obs[:, ahead]) - now, risk(predicted[ahead - 1]) - now
        rows.append(
            {
                "steps": ahead,
                "starts": len(chosen),
                "mae_persistence": float(np.abs(true).mean()),
                "mae_model": float(np.abs(true - guess).mean()),
                "correlation": _correlation(true, guess),
            }
        )
    return rows


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
    return _in_blocks(jax.jit(lambda o: cost.unsafe(net, model, o)), obs)


def cost_scores(net: Critic, model: cost.CostModel, obs: np.ndarray) -> np.ndarray:
    """The cost network's scores of states `[M, O]`, `[M]`."""
    return _in_blocks(jax.jit(lambda o: cost.score(net, model, o)), obs)


def rollouts_report(imagined: rollouts.Imagined, logged_obs: np.ndarray, scale: Any) -> dict:
    """How many trajectories violate, by source, and how far from the logs they lie.

    Args:
      imagined: M trajectories.
      logged_obs: `[R, O]` a sample of logged observations.

    Distances are to the nearest logged state of the sample, root mean square
    in scaled units, for the last kept state of each trajectory; beside them
    the same for logged states left out of the sample.
    """
    report = {k.removeprefix("rollouts/"): float(v) for k, v in rollouts.summary(imagined).items()}
    length = np.asarray(imagined.length)
    last = np.asarray(imagined.obs)[np.arange(len(length)), length]
    kept, left_out = logged_obs[::2], logged_obs[1::2]
    return report | {
        "trajectories": len(length),
        "distance_imagined": _quantiles(_nearest(scale, last[length > 0], kept)),
        "distance_logged": _quantiles(_nearest(scale, left_out, kept)),
    }


def values(parts: Parts, scale: Any, agents: Any, obs: np.ndarray) -> np.ndarray:
    """V_h of raw states `[M, O]` for every seed, `[S, M]`."""
    nets = parts.agent.feasibility

    @jax.jit
    def one(o: Array) -> jax.Array:
        return jax.vmap(lambda p: feasibility.vh(nets, p, scale(o)))(agents.feasibility.params)

    return np.moveaxis(_in_blocks(lambda o: jnp.moveaxis(one(o), 0, 1), obs), 0, 1)


def feasibility_report(
    parts: Parts,
    scale: Any,
    agents: Any,
    risk: Risk | None,
    safe: Sequence[Episode],
    violating: Sequence,
) -> dict[str, Any]:
    """What V_h knows on unseen episodes.

    Args:
      safe: held-out episodes without violation: what V_h calls infeasible
        there is false (the behaviour did stay safe).
      violating: unseen episodes with violations.
      risk: the trivial score beside which V_h is put, None if there is none.

    Returns:
      Means over seeds: `false_infeasible_share`; AUROC of V_h and of the
      trivial score for "violates within k steps", over states that are safe
      now; and the share of states 10 steps before a violation called
      infeasible. None where there are no such episodes.
    """
    report: dict[str, Any] = {"false_infeasible_share": None, "auroc": {}, "found_10_steps": None}
    if safe:
        obs = _rows(np.concatenate([e.obs[:-1] for e in safe]))
        shares = (values(parts, scale, agents, obs) > 0).mean(axis=1)
        report["false_infeasible_share"] = float(shares.mean())
        report["false_infeasible_by_seed"] = [float(x) for x in shares]
    if not violating:
        return report
    obs = np.concatenate([e.obs[:-1] for e in violating])
    ahead = np.concatenate([steps_to_violation(e.cost) for e in violating])
    now = np.concatenate([np.append(0.0, e.cost[:-1]) for e in violating]) > 0
    keep = np.flatnonzero(~now)
    keep = keep[_spread(len(keep), MOST_ROWS)]
    obs, ahead = obs[keep], ahead[keep]
    vh = values(parts, scale, agents, obs)
    for window in WINDOWS:
        soon = ahead <= window
        if soon.any() and not soon.all():
            report["auroc"][str(window)] = {
                "v_h": float(np.mean([auroc(v, soon) for v in vh])),
                "trivial": None if risk is None else float(auroc(risk(obs), soon)),
                "share": float(soon.mean()),
            }
    ten = ahead == 10
    if ten.any():
        report["found_10_steps"] = float((vh[:, ten] > 0).mean())
    return report


def steps_to_violation(costs: np.ndarray) -> np.ndarray:
    """For each step, after how many steps the next cost comes; 1 is at once, inf never."""
    ahead, steps = np.inf, np.full(len(costs), np.inf)
    for t in range(len(costs) - 1, -1, -1):
        ahead = 1.0 if costs[t] > 0 else ahead + 1.0
        steps[t] = ahead
    return steps


def _changes(data: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = np.asarray(data.obs_index)[rows]
    obs = np.asarray(data.obs)
    change = np.concatenate([obs[at + 1] - obs[at], np.asarray(data.reward)[rows][:, None]], axis=1)
    return obs[at], np.asarray(data.action)[rows], change


def _ridge(model: dynamics.Model, train: Dataset, obs: np.ndarray, action: np.ndarray) -> Any:
    """Ridge regression (penalty 1 on standardised inputs) of the changes."""

    def inputs(o: np.ndarray, a: np.ndarray) -> np.ndarray:
        return np.concatenate([np.asarray(model.scale(o)), a, np.ones((len(a), 1))], axis=1)

    logged_obs, logged_action, change = _changes(train, _spread(train.size, 4 * MOST_ROWS))
    x = inputs(logged_obs, logged_action).astype(np.float64)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ change)
    return inputs(obs, action) @ weights


def _groups(spec: ObservationSpec) -> dict[str, np.ndarray]:
    """Indices of each sensor group, the reward last."""
    groups: dict[str, list[np.ndarray]] = {}
    for f in spec.fields:
        where = spec.slices[f.name]
        groups.setdefault(f.group or f.name, []).append(np.arange(where.start, where.stop))
    found = {name: np.concatenate(parts) for name, parts in groups.items()}
    return found | {"reward": np.array([spec.size])}


def _windows(episodes: Sequence[Episode], horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Every fifth stretch of `horizon` steps: obs `[M, H + 1, O]`, action `[M, H, A]`."""
    starts = [(e, t) for e in episodes for t in range(0, len(e.reward) - horizon, 5)]
    starts = [starts[i] for i in _spread(len(starts), MOST_ROWS)]
    obs = np.stack([e.obs[t : t + horizon + 1] for e, t in starts])
    return obs, np.stack([e.action[t : t + horizon] for e, t in starts])


def _in_blocks(function: Callable, *arrays: np.ndarray, size: int = 4096) -> Any:
    """Applies a batched function to blocks of one size, so that memory stays bounded.

    The function's outputs have the batch as first axis, or as second where a
    tuple comes back.
    """
    count = len(arrays[0])
    size = min(size, count)
    outputs = []
    for start in range(0, count, size):
        block = [np.take(x, range(start, start + size), axis=0, mode="clip") for x in arrays]
        outputs.append(function(*block))
    if isinstance(outputs[0], tuple):
        return tuple(np.concatenate(x, axis=1)[:, :count] for x in zip(*outputs, strict=True))
    return np.concatenate([np.asarray(x) for x in outputs])[:count]


def _nearest(scale: Any, points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances from points to the nearest of others, root mean square over dimensions."""
    a, b = np.asarray(scale(points)), np.asarray(scale(others))
    dims = max(int(np.sum(np.asarray(scale.varies))), 1)
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    return np.sqrt(np.maximum(square.min(axis=1), 0.0) / dims)


def _quantiles(x: np.ndarray) -> dict[str, float]:
    if not len(x):
        return {}
    return {f"{q:.2f}": float(np.quantile(x, q)) for q in (0.1, 0.5, 0.9)}


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many indices below count, evenly spread."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64))


def _rows(obs: np.ndarray) -> np.ndarray:
    return obs[_spread(len(obs), MOST_ROWS)]
