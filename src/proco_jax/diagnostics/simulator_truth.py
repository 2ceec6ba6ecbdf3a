"""Counterfactuals in the simulator: logged states restored and continued with other actions.

For diagnosis after training only. Logs of the embedded collection can be repeated from their seeds;
in the course of an episode the worlds are saved, restored, and continued with other actions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from proco_jax.envs.batched.block import Snapshot
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.controllers import steer
from proco_jax.envs.episodes import run_episodes
from proco_jax.types import Episode

# Obs [n, O] and the step of the attempt to actions [n, A].
Attempt = Callable[[np.ndarray, int], np.ndarray]
_TOLERANCE = 1e-5


class Branches(NamedTuple):
    """M counterfactual trajectories.

    Attributes:
      obs: `[M, H + 1, O]` float32.
      unsafe: `[M, H]` bool, whether the next state truly cost.
      amid: `[M]` snapshots at the requested steps; empty if none were requested.
    """

    obs: np.ndarray
    unsafe: np.ndarray
    amid: list[Snapshot]


def restore(
    env: BatchedEnv, logs: Mapping[int, Episode], wanted: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], Snapshot]:
    """Snapshots of logged states, by seed and step.

    Args:
      env: worlds of the logs' task.
      logs: episodes by the seeds that they were recorded with.
      wanted: seeds and steps at which to save.

    Raises:
      ValueError: if the logged actions lead to other states than logged.
    """
    found: dict[tuple[int, int], Snapshot] = {}
    states = set(wanted)

    def act(obs: np.ndarray, seeds: np.ndarray, step: np.ndarray) -> np.ndarray:
        actions = np.zeros((len(seeds), env.task.action_size), np.float32)
        for row, (seed, t) in enumerate(zip(seeds.tolist(), step.tolist(), strict=True)):
            if seed not in logs or t >= len(logs[seed].reward):
                continue
            actions[row] = logs[seed].action[t]
            if (seed, t) in states and (seed, t) not in found:
                _check_same(logs[seed].obs[t], obs[row], seed, t)
                found[seed, t] = env.save([row])[0]
        return actions

    run_episodes(env, act, sorted({seed for seed, _ in states}))
    return found


def follow(
    env: BatchedEnv,
    starts: Sequence[Snapshot],
    plans: np.ndarray,
    save_at: np.ndarray | None = None,
) -> Branches:
    """Executes planned actions `[M, H, A]` from each start.

    Args:
      save_at: `[M]` steps in [0, H) before which to save; None saves nothing.
    """
    horizon = plans.shape[1]
    obs = np.zeros((len(starts), horizon + 1, env.task.spec.size), np.float32)
    unsafe = np.zeros((len(starts), horizon), bool)
    amid: dict[int, Snapshot] = {}
    for rows in _batches(env, starts):
        worlds = np.arange(len(rows))
        env.load([starts[i] for i in rows], worlds.tolist())
        obs[rows, 0] = [starts[i].obs for i in rows]
        actions = np.zeros((env.num_envs, plans.shape[2]), np.float32)
        for t in range(horizon):
            if save_at is not None:
                now = worlds[save_at[rows] == t].tolist()
                amid |= dict(zip(rows[now].tolist(), env.save(now), strict=True))
            actions[worlds] = plans[rows, t]
            result = env.step(actions)
            obs[rows, t + 1] = result.obs[worlds]
            unsafe[rows, t] = result.cost[worlds] > 0
    return Branches(obs, unsafe, [amid[i] for i in sorted(amid)])


def unavoidable(
    env: BatchedEnv, starts: Sequence[Snapshot], attempts: Sequence[Attempt], horizon: int
) -> np.ndarray:
    """Whether every attempt from a start violates within the horizon, `[M]` bool.

    No more attempts are made from a start after the first one that avoids a violation.
    """
    infeasible = np.ones(len(starts), bool)
    for attempt in attempts:
        pending = np.flatnonzero(infeasible)
        for rows in _batches(env, [starts[i] for i in pending]):
            chosen = pending[rows]
            infeasible[chosen] = _violates(env, [starts[i] for i in chosen], attempt, horizon)
    return infeasible


def attempts(env: BatchedEnv, policies: Sequence[Attempt], count: int, seed: int) -> list[Attempt]:
    """Attempts to avoid a violation: brake, turn away, full controls, policies, random actions.

    Args:
      policies: all of them are tried.
      count: of all attempts; random persistent actions make up the rest.
      seed: of the random ones.
    """
    task, size = env.task, env.task.action_size

    def turn_away(gain: float, threshold: float, speed: float) -> Attempt:
        def act(obs: np.ndarray, step: int) -> np.ndarray:
            one = np.ones(len(obs))
            return steer(task, obs, gain * one, threshold * one, speed * one)

        return act

    corners = np.stack(np.meshgrid(*[(-1.0, 0.0, 1.0)] * size), axis=-1).reshape(-1, size)
    careful = [
        turn_away(gain, threshold, speed)
        for speed in (0.0, 0.7)
        for gain in (3.0, 10.0)
        for threshold in (0.3, 0.6, 0.8)
    ]
    held = [lambda obs, step, a=a: np.tile(a, (len(obs), 1)) for a in corners]
    known = [*careful, *held, *policies]
    return [*known, *(_random(size, [seed, i]) for i in range(count - len(known)))][:count]


def _random(size: int, seed: list[int], held_for: int = 8) -> Attempt:
    """Random actions, each held for `held_for` steps; the same for every start."""
    drawn = np.random.default_rng(seed).uniform(-1.0, 1.0, (64, size))

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        return np.tile(drawn[(step // held_for) % len(drawn)], (len(obs), 1))

    return act


def _violates(
    env: BatchedEnv, starts: Sequence[Snapshot], attempt: Attempt, horizon: int
) -> np.ndarray:
    count = len(starts)
    env.load(starts, list(range(count)))
    obs = np.zeros((env.num_envs, env.task.spec.size), np.float32)
    obs[:count] = [saved.obs for saved in starts]
    bad = np.zeros(count, bool)
    for t in range(horizon):
        result = env.step(np.clip(attempt(obs, t), -1.0, 1.0))
        obs = result.obs
        bad |= result.cost[:count] > 0
        if bad.all():
            break
    return bad


def _batches(env: BatchedEnv, starts: Sequence[Snapshot]) -> list[np.ndarray]:
    """Rows to simulate together, those of a seed next to each other."""
    order = np.argsort([saved.seed for saved in starts], kind="stable")
    count = -(-len(order) // env.num_envs)
    return [rows for rows in np.array_split(order, count) if len(rows)] if count else []


def _check_same(logged: np.ndarray, seen: np.ndarray, seed: int, step: int) -> None:
    far = float(np.abs(logged - seen).max())
    if far > _TOLERANCE:
        raise ValueError(
            f"seed {seed}, step {step}: the simulator's observation differs from the logged one by "
            f"{far:.3g}; only episodes of the embedded collection, recorded with this version of "
            "the simulator, can be repeated (--config.data.source=collect)"
        )
