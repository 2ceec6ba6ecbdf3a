"""Imagined trajectories beside what the simulator makes of them, and what was truly avoidable.

For diagnosis after training only: true costs are read here.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.algorithms import proco
from proco_jax.augmentation import rollouts
from proco_jax.common.statistics import auroc, recall_and_precision
from proco_jax.config.schema import Config
from proco_jax.data.collection import episode_seeds, make_recipe
from proco_jax.data.logs import Logs
from proco_jax.diagnostics import simulator_truth as oracle
from proco_jax.diagnostics.critics import Risk
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.tasks import get_task
from proco_jax.training import loop as train
from proco_jax.training.loop import Parts
from proco_jax.types import Array, Dataset, Episode

STATES, VICINITY, ATTEMPTS, AVOID_STEPS = 2000, 0.6, 64, 25
_POLICY_ATTEMPTS = 11


class Pairs(NamedTuple):
    """M trajectories, imagined and in the simulator, from the same states by the same actions.

    Attributes:
      imagined: as training has them.
      obs: `[M, H + 1, O]` what the simulator shows.
      unsafe: `[M, H]` bool, what truly cost.
    """

    imagined: rollouts.Imagined
    obs: np.ndarray
    unsafe: np.ndarray


class Truth(NamedTuple):
    """States that are safe now, and what the simulator says of them.

    Attributes:
      obs: `[M, O]`.
      lost: `[M]` bool, every attempt to stay safe violated.
    """

    obs: np.ndarray
    lost: np.ndarray


def seeds_of(config: Config, indices: Sequence[int]) -> list[int]:
    """The seeds that episodes of the dataset were recorded with.

    Raises:
      ValueError: if the data are not of the embedded collection.
    """
    if config.data.source != "collect":
        raise ValueError(
            f"--config.data.source: found {config.data.source!r}; the simulator can restore states "
            "of the embedded collection alone, whose seeds are known: expected collect"
        )
    seeds = episode_seeds(make_recipe(get_task(config.task), config.data))
    return [seeds[i] for i in indices]


def imagined_and_real(
    env: BatchedEnv,
    parts: Parts,
    known: train.Knowledge,
    logs: Logs,
    data: Dataset,
    agent: proco.AgentState,
) -> Pairs:
    """As many trajectories as the sample buffer of training holds, made in the same way.

    Args:
      known: one fit, without an axis of seeds.
      data: the training logs on the device.
      agent: one seed's, whose policy is part of the mixture.
    """
    config = parts.config
    settings = config.rollouts
    shape = (known.model.elites.shape[0], settings.starts)
    plan, escape = _planners(parts, shape)
    seeds = np.array(seeds_of(config, logs.split.train))
    drawn = [
        plan(known, data, agent, jax.random.fold_in(jax.random.key(config.seed), i))
        for i in range(settings.generations)
    ]
    index = np.stack([np.asarray(x[0]) for x in drawn]).reshape(len(drawn), -1)
    first = [jax.tree.map(np.asarray, x[1]) for x in drawn]
    starts = _starts(env, logs.episodes, seeds, data, index.ravel())
    steps = np.concatenate([_amid(x, config.seed, i) for i, x in enumerate(first)])
    actions = np.concatenate([x.action for x in first])
    real = oracle.follow(env, starts, actions, steps)
    there = real.obs[np.arange(len(steps)), steps].reshape(len(drawn), *shape, -1)
    count = round(settings.escape_share * settings.starts)
    found, rows = [], np.arange(len(steps)).reshape(len(drawn), *shape)[:, :, :count]
    if count:
        keys = jax.random.split(jax.random.key(config.seed + 1), len(drawn))
        found = [
            jax.tree.map(np.asarray, escape(known, agent, start, key))
            for start, key in zip(there[:, :, :count], keys, strict=True)
        ]
        chosen = [real.amid[i] for i in rows.ravel()]
        more = oracle.follow(env, chosen, np.concatenate([x.action for x in found]))
        real = oracle.Branches(
            np.concatenate([real.obs, more.obs]), np.concatenate([real.unsafe, more.unsafe]), []
        )
    imagined = jax.tree.map(lambda *x: np.concatenate(x), *first, *found)
    return Pairs(imagined, real.obs, real.unsafe)


def rollout_agreement(imagined: np.ndarray, real: np.ndarray) -> dict[str, float | None]:
    """Precision and recall of imagined violations `[M]` bool against the simulator's."""
    recall, precision = recall_and_precision(imagined, real)
    return {
        "imagined_share": float(imagined.mean()),
        "real_share": float(real.mean()),
        "precision": precision,
        "recall": recall,
    }


def choose_states(
    episodes: Sequence[Episode], seeds: Sequence[int], risk: Risk, seed: int
) -> list[tuple[int, int]]:
    """Seeds and steps of states that are safe now, half of them in the vicinity of danger.

    Raises:
      ValueError: if the episodes have none.
    """
    safe = [_safe_steps(episode, AVOID_STEPS) for episode in episodes]
    rows = [(s, int(t)) for s, steps in zip(seeds, safe, strict=True) for t in steps]
    if not rows:
        raise ValueError(
            f"found no safe state with {AVOID_STEPS} steps after it in {len(episodes)} held-out or "
            "violating episodes; collect more episodes or hold more out"
        )
    obs = np.concatenate([e.obs[steps] for e, steps in zip(episodes, safe, strict=True)])
    near = np.flatnonzero(risk(obs) > -VICINITY)
    rng = np.random.default_rng([seed, 5])
    half = min(STATES // 2, len(near))
    anywhere = rng.permutation(len(rows))[: STATES - half]
    return [rows[i] for i in np.union1d(rng.permutation(near)[:half], anywhere).astype(int)]


def find_truth(
    env: BatchedEnv,
    parts: Parts,
    scale: Any,
    episodes: Sequence[Episode],
    seeds: Sequence[int],
    risk: Risk,
    cloned: proco.AgentState,
) -> Truth:
    """Which states of episodes nothing could have kept safe, of `ATTEMPTS` ways to try.

    Args:
      cloned: one seed of the baseline, whose policy, sampled, is some of the ways.
    """
    seed = parts.config.seed
    logs = dict(zip(seeds, episodes, strict=True))
    saved = oracle.restore(env, logs, choose_states(episodes, seeds, risk, seed))
    starts = [saved[at] for at in sorted(saved)]

    @jax.jit
    def sample(obs: Array, key: Array) -> jax.Array:
        return train.policy(parts, scale, cloned, key, obs)

    def policy(i: int) -> oracle.Attempt:
        key = jax.random.key(i)
        return lambda obs, step: np.asarray(sample(obs, jax.random.fold_in(key, step)))

    ways = oracle.attempts(env, [policy(i) for i in range(_POLICY_ATTEMPTS)], ATTEMPTS, seed)
    lost = oracle.unavoidable(env, starts, ways, AVOID_STEPS)
    return Truth(np.stack([x.obs for x in starts]).astype(np.float32), lost)


def feasibility_agreement(vh: np.ndarray, lost: np.ndarray) -> dict[str, float | None]:
    """V_h `[S, M]` against what the simulator found lost `[M]` bool, mean over seeds."""
    called = vh > 0
    mixed = lost.any() and not lost.all()
    return {
        "lost_share": float(lost.mean()),
        "auroc": float(np.mean([auroc(v, lost) for v in vh])) if mixed else None,
        "feasible_called_infeasible": float(called[:, ~lost].mean()) if (~lost).any() else None,
        "infeasible_missed": float((~called[:, lost]).mean()) if lost.any() else None,
    }


def _planners(parts: Parts, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Compiled: a generation's starts and trajectories; escapes from given states."""
    settings = parts.config.rollouts

    @jax.jit
    def plan(
        known: train.Knowledge, data: Dataset, agent: Any, key: Array
    ) -> tuple[jax.Array, rollouts.Imagined]:
        world = train.make_world(parts, known.model, known.cost)
        start_key, plan_key, walk_key = jax.random.split(key, 3)
        index = rollouts.sample_starts(
            start_key, shape, data.size, known.risky, settings.risky_start_share
        )
        # Earlier, where the time limit would end the episode on the way.
        index -= jnp.maximum(2 * settings.horizon - data.remaining[index], 0)
        start, planned, source = rollouts.plan_actions(settings, world, data, index, plan_key)
        act = functools.partial(train.policy, parts, known.model.scale, agent)
        return index, rollouts.imagine(world, act, start, planned, source, walk_key)

    @jax.jit
    def escape(known: train.Knowledge, agent: Any, start: Array, key: Array) -> rollouts.Imagined:
        world = train.make_world(parts, known.model, known.cost)
        act = functools.partial(train.policy, parts, known.model.scale, agent)
        keys = tuple(jax.random.split(key))
        return rollouts.escape(settings, world, act, start, parts.agent.policy.actions, keys)

    return plan, escape


def _starts(
    env: BatchedEnv,
    episodes: Sequence[Episode],
    seeds: np.ndarray,
    data: Dataset,
    index: np.ndarray,
) -> list[Any]:
    """Snapshots of logged transitions `index [M]`."""
    episode = np.asarray(data.episode)[index]
    lengths = np.array([len(e.reward) for e in episodes])
    step = lengths[episode] - 1 - np.asarray(data.remaining)[index]
    at = [(int(seeds[e]), int(t)) for e, t in zip(episode, step, strict=True)]
    logs = {int(seeds[e]): episodes[e] for e in np.unique(episode)}
    saved = oracle.restore(env, logs, at)
    return [saved[x] for x in at]


def _amid(found: rollouts.Imagined, seed: int, generation: int) -> np.ndarray:
    """`[M]` steps at which trajectories are left for an escape."""
    unit = np.random.default_rng([seed, 6, generation]).uniform(size=len(found.length))
    return np.minimum((unit * found.length).astype(int), found.action.shape[1] - 1)


def _safe_steps(episode: Episode, last: int) -> np.ndarray:
    """Steps whose state does not cost, with room for an attempt before the time limit."""
    now = np.append(0.0, episode.cost[:-1]) > 0
    return np.flatnonzero(~now[: max(len(now) - last, 0)])
