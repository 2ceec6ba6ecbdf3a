"""Errors of the dynamics model, one step and open loop, on episodes it was not trained on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from proco_jax.common.batching import in_blocks, spread
from proco_jax.common.compiler import jit_compile_fast
from proco_jax.models import dynamics, object_map
from proco_jax.models.networks import DynamicsNetwork
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Array, Dataset, Episode

STEPS_AHEAD = (1, 5, 10, 20)
MOST_ROWS = 20000

# Raw obs `[M, O]` to a signed margin `[M]`, positive inside of the unsafe set.
Margin = Callable[[np.ndarray], np.ndarray]


def one_step_r2(
    net: DynamicsNetwork, model: dynamics.Model, train: Dataset, holdout: Dataset
) -> dict[str, dict[str, float]]:
    """One-step R2 on held-out episodes by sensor group, beside two simple predictors.

    R2 is `1 - sum of squared errors / sum of squared changes`, so persistence
    is 0; ridge regression is fitted on the training logs from the same inputs. A group that never
    changes in the held-out episodes is left out.
    """
    rows = spread(holdout.size, MOST_ROWS)
    obs, action, change = _changes(holdout, rows)

    predicted, reward = in_blocks(lambda o, a: _predict(net, model, o, a), obs, action)
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
        if not total:
            continue
        scores = {
            name: 1.0 - float(np.sum(((p - change)[:, index] / size[index]) ** 2) / total)
            for name, p in (("model", model_change), ("ridge", ridge_change))
        }
        report[group] = scores | {"persistence": 0.0}
    return report


def open_loop(
    net: DynamicsNetwork,
    model: dynamics.Model,
    margin: Margin,
    episodes: Sequence[Episode],
    near: float,
    starts: int = 512,
    until_violation: bool = False,
) -> list[dict[str, float]]:
    """Open-loop prediction of a margin with logged actions, compared to persistence.

    Args:
      margin: in the rule's unit, e.g. minus the distance to the nearest hazard.
      episodes: that no part was trained on.
      near: starts have a margin above minus this.
      starts: how many, spread over the episodes.
      until_violation: leave out what follows a violation. A touch pushes and
        stops a robot in a way that no safe log shows.

    Returns:
      A row for each number of steps: mean absolute errors in the rule's unit,
      and the correlation of the predicted with the true change. No row where no
      episode is long enough or comes near.
    """
    found = _predicted_windows(net, model, margin, episodes, near, starts, until_violation)
    if found is None:
        return []
    obs, predicted, costly = found
    now = margin(obs[:, 0])
    rows = []
    for ahead in STEPS_AHEAD:
        true, guess = margin(obs[:, ahead]) - now, margin(predicted[:, ahead - 1]) - now
        if until_violation:
            clean = ~costly[:, :ahead].any(axis=1)
            true, guess = true[clean], guess[clean]
        if not len(true):
            continue
        rows.append(
            {
                "steps": ahead,
                "starts": len(true),
                "mae_persistence": float(np.abs(true).mean()),
                "mae_model": float(np.abs(true - guess).mean()),
                "correlation": _correlation(true, guess),
            }
        )
    return rows


def margin_excess(
    net: DynamicsNetwork,
    model: dynamics.Model,
    margin: Margin,
    episodes: Sequence[Episode],
    near: float,
    steps: int,
    starts: int = 512,
) -> np.ndarray:
    """By how much margins exceed those predicted open loop with logged actions, after `steps`.

    The mean of the elites predicts, as in `open_loop`.

    Args:
      margin, episodes, near, starts: as in `open_loop`. Stretches are as long as there.
      steps: at most the largest of STEPS_AHEAD.

    Returns:
      `[M]` in the rule's unit, one for each start. Infinite where the difference is not a number;
      minus infinity where the predicted margin alone is infinite, i.e. unsafe to all that read it.
    """
    found = _predicted_windows(net, model, margin, episodes, near, starts)
    if found is None:
        return np.zeros(0)
    obs, predicted, _ = found
    with np.errstate(invalid="ignore"):
        excess = margin(obs[:, steps]) - margin(predicted[:, steps - 1])
    return np.where(np.isnan(excess), np.inf, excess)


def open_loop_by_ring(
    net: DynamicsNetwork,
    model: dynamics.Model,
    episodes: Sequence[Episode],
    near: float = 0.6,
    starts: int = 512,
) -> list[dict[str, Any]]:
    """`open_loop` of the nearest object of each ring in metres, until something is violated.

    One weak ring may hide behind a rule over several: what turns or is switched
    off at random can't be foreseen by any model of these observations.

    Args:
      near: metres to the nearest object of the ring at a start.
    """
    rows = []
    for f in net.spec.rings:

        def ring_margin(obs: np.ndarray, f: Field = f) -> np.ndarray:
            return f.reach * (np.asarray(obs)[..., net.spec.slices[f.name]].max(axis=-1) - 1.0)

        found = open_loop(net, model, ring_margin, episodes, near, starts, until_violation=True)
        rows += [{"ring": f.name} | row for row in found]
    return rows


@functools.partial(jit_compile_fast, static_argnums=0)
def _predict(
    net: DynamicsNetwork, model: dynamics.Model, obs: Array, action: Array
) -> tuple[Array, Array]:
    """Next obs `[E, M, O]` and rewards `[E, M]` by each elite, from raw obs `[M, O]`."""
    found = dynamics.predict_elites(net, model, object_map.begin(net.spec, obs), action)
    return found.next_obs, found.reward + found.bonus


def _changes(data: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = np.asarray(data.obs_index)[rows]
    obs = np.asarray(data.obs)
    change = np.concatenate([obs[at + 1] - obs[at], np.asarray(data.reward)[rows][:, None]], axis=1)
    return obs[at], np.asarray(data.action)[rows], change


def _ridge(model: dynamics.Model, train: Dataset, obs: np.ndarray, action: np.ndarray) -> Any:
    """Ridge regression (penalty 1 on standardised inputs) of the changes."""

    def inputs(o: np.ndarray, a: np.ndarray) -> np.ndarray:
        return np.concatenate([np.asarray(model.normalizer(o)), a, np.ones((len(a), 1))], axis=1)

    logged_obs, logged_action, change = _changes(train, spread(train.size, 4 * MOST_ROWS))
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


def _predicted_windows(
    net: DynamicsNetwork,
    model: dynamics.Model,
    margin: Margin,
    episodes: Sequence[Episode],
    near: float,
    starts: int,
    until_violation: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Of `_windows`, those that `open_loop` starts; None if there are none.

    Returns:
      obs `[M, H + 1, O]`, predicted obs `[M, H, O]`, and which states cost, `[M, H + 1]`.
    """
    horizon = max(STEPS_AHEAD)
    if not any(len(e.reward) > horizon for e in episodes):
        return None
    obs, action, costly = _windows(episodes, horizon)
    close = margin(obs[:, 0]) > -near
    close = np.flatnonzero(close & ~costly[:, 0] if until_violation else close)
    if not len(close):
        return None
    chosen = close[spread(len(close), starts)]
    obs, action = obs[chosen], action[chosen]
    predict = functools.partial(dynamics.predict_open_loop, net, model)
    return obs, in_blocks(predict, obs[:, 0], action, size=starts), costly[chosen]


def _windows(
    episodes: Sequence[Episode], horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every fifth stretch of `horizon` steps.

    Returns:
      obs `[M, H + 1, O]`, action `[M, H, A]`, and which of the states cost, `[M, H + 1]`.
    """
    starts = [(e, t) for e in episodes for t in range(0, len(e.reward) - horizon, 5)]
    starts = [starts[i] for i in spread(len(starts), MOST_ROWS)]
    obs = np.stack([e.obs[t : t + horizon + 1] for e, t in starts])
    action = np.stack([e.action[t : t + horizon] for e, t in starts])
    # A step's cost is that of the state it leads to; what came before an episode cost nothing.
    costs = [np.append(0.0, e.cost)[t : t + horizon + 1] for e, t in starts]
    return obs, action, np.stack(costs) > 0


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
