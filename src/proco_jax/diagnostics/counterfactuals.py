"""Imagined trajectories compared to the simulator's, and which states are truly infeasible.

For diagnosis after training only: true costs are read here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.augmentation import rollouts
from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.augmentation.proco import make_hyper, rollout_model
from proco_jax.common.random_streams import Stream, stream_key
from proco_jax.common.statistics import auroc, recall_and_precision
from proco_jax.config.schema import Config
from proco_jax.data.collection import episode_seeds, make_recipe
from proco_jax.data.logs import Logs
from proco_jax.diagnostics import simulator_truth
from proco_jax.diagnostics.dynamics_error import Margin
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.tasks import get_task
from proco_jax.training.loop import Program, make_policy
from proco_jax.types import Array, Dataset, Episode

# States to judge at most, the margin within which half of them lie, the attempts to avoid a
# violation from each, and for how many steps they must avoid it.
STATES, VICINITY, ATTEMPTS, AVOID_STEPS = 2000, 0.6, 64, 25
_POLICY_ATTEMPTS = 11


class Pairs(NamedTuple):
    """M trajectories, imagined and in the simulator, from the same states with the same actions.

    Attributes:
      imagined: as in training.
      obs: `[M, H + 1, O]`, the simulator's observations.
      unsafe: `[M, H]` bool, what truly cost.
    """

    imagined: rollouts.Imagined
    obs: np.ndarray
    unsafe: np.ndarray


class Truth(NamedTuple):
    """States that are safe now, and whether the simulator found them infeasible.

    Attributes:
      obs: `[M, O]`.
      infeasible: `[M]` bool, every attempt to avoid a violation failed.
    """

    obs: np.ndarray
    infeasible: np.ndarray


def recorded_seeds(config: Config, indices: Sequence[int]) -> list[int]:
    """The seeds that episodes of the dataset were recorded with.

    Raises:
      ValueError: if the data are not of the embedded collection, or of a velocity task.
    """
    if config.data.source != "collect":
        raise ValueError(
            f"--config.data.source: found {config.data.source!r}, expected collect: the simulator "
            "can only restore states of the embedded collection, whose seeds are known"
        )
    task = get_task(config.task)
    if task.kind == "Velocity":
        raise ValueError(
            f"--config.task: found {config.task}, expected a navigation task: the simulator can "
            "restore logged states of these alone"
        )
    seeds = episode_seeds(make_recipe(task, config.data))
    return [seeds[i] for i in indices]


def imagined_and_real(
    env: BatchedEnv, program: Program, context: Context, logs: Logs, hyper: Any, state: Any
) -> Pairs:
    """As many trajectories as the buffer of a training holds, generated in the same way.

    Args:
      context: of a training with PROCO.
      hyper: hyperparameters of the algorithm, of one member.
      state: state of the algorithm, of one member, whose policy is part of the mixture.
    """
    config = program.config
    settings = config.rollouts
    assert context.world is not None
    shape = (context.world.dynamics.elites.shape[0], settings.starts)
    plan, recover = _planners(program, shape)
    seeds = np.array(recorded_seeds(config, logs.split.train))
    keys = jax.random.split(stream_key(config.seed, Stream.COUNTERFACTUALS), settings.generations)
    drawn = [plan(context.world, context.data, hyper, state, key) for key in keys]
    index = np.stack([np.asarray(x[0]) for x in drawn]).reshape(len(drawn), -1)
    first = [jax.tree.map(np.asarray, x[1]) for x in drawn]
    starts = _starts(env, logs.episodes, seeds, context.data, index.ravel())
    steps = np.concatenate([_recovery_steps(x, config.seed, i) for i, x in enumerate(first)])
    actions = np.concatenate([x.action for x in first])
    real = simulator_truth.follow(env, starts, actions, steps)
    there = real.obs[np.arange(len(steps)), steps].reshape(len(drawn), *shape, -1)
    count = round(settings.recovery_share * settings.starts)
    found, rows = [], np.arange(len(steps)).reshape(len(drawn), *shape)[:, :, :count]
    if count:
        key = stream_key(config.seed, Stream.RECOVERY_COUNTERFACTUALS)
        found = [
            jax.tree.map(np.asarray, recover(context.world, hyper, state, start, key))
            for start, key in zip(
                there[:, :, :count], jax.random.split(key, len(drawn)), strict=True
            )
        ]
        chosen = [real.amid[i] for i in rows.ravel()]
        more = simulator_truth.follow(env, chosen, np.concatenate([x.action for x in found]))
        real = simulator_truth.Branches(
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


def sample_judged_states(
    episodes: Sequence[Episode], seeds: Sequence[int], margin: Margin, seed: int
) -> list[tuple[int, int]]:
    """Seeds and steps of states that are safe now, half of them close to the unsafe set.

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
    near = np.flatnonzero(margin(obs) > -VICINITY)
    rng = np.random.default_rng([seed, 5])
    half = min(STATES // 2, len(near))
    anywhere = rng.permutation(len(rows))[: STATES - half]
    return [rows[i] for i in np.union1d(rng.permutation(near)[:half], anywhere).astype(int)]


def judge_states(
    env: BatchedEnv,
    program: Program,
    context: Context,
    episodes: Sequence[Episode],
    seeds: Sequence[int],
    margin: Margin,
    hyper: Any,
    state: Any,
) -> Truth:
    """Which states of episodes are infeasible: `ATTEMPTS` ways to avoid a violation all fail.

    Args:
      hyper: hyperparameters of the algorithm, of one member.
      state: state of the algorithm, of one member, whose policy makes some of the attempts.
    """
    seed = program.config.seed
    logs = dict(zip(seeds, episodes, strict=True))
    wanted = sample_judged_states(episodes, seeds, margin, seed)
    saved = simulator_truth.restore(env, logs, wanted)
    starts = [saved[at] for at in sorted(saved)]

    @jax.jit
    def sample(obs: Array, key: Array) -> jax.Array:
        return make_policy(program, context.normalizer, hyper, state)(key, obs)

    def policy(key: Array) -> simulator_truth.Attempt:
        return lambda obs, step: np.asarray(sample(obs, jax.random.fold_in(key, step)))

    keys = jax.random.split(stream_key(seed, Stream.AVOIDANCE_ATTEMPTS), _POLICY_ATTEMPTS)
    ways = simulator_truth.attempts(env, [policy(key) for key in keys], ATTEMPTS, seed)
    infeasible = simulator_truth.unavoidable(env, starts, ways, AVOID_STEPS)
    return Truth(np.stack([x.obs for x in starts]).astype(np.float32), infeasible)


def feasibility_agreement(vh: np.ndarray, infeasible: np.ndarray) -> dict[str, float | None]:
    """V_h `[S, M]` against the simulator's judgment `[M]` bool, mean over seeds."""
    called = vh > 0
    feasible = ~infeasible
    mixed = infeasible.any() and feasible.any()
    return {
        "infeasible_share": float(infeasible.mean()),
        "auroc": float(np.mean([auroc(v, infeasible) for v in vh])) if mixed else None,
        "feasible_called_infeasible": (
            float(called[:, feasible].mean()) if feasible.any() else None
        ),
        "infeasible_missed": float((~called[:, infeasible]).mean()) if infeasible.any() else None,
    }


def _planners(program: Program, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Compiled: the starts and trajectories of a generation; recovery rollouts from states."""
    settings = program.config.rollouts
    rollout_hyper = make_hyper(program.config).rollouts

    def parts(world: WorldModel, hyper: Any, state: Any) -> tuple[Any, Any]:
        model = rollout_model(
            program.dynamics, program.cost, world.dynamics, world.cost, world.termination
        )
        return model, make_policy(program, world.dynamics.normalizer, hyper, state)

    @jax.jit
    def plan(
        world: WorldModel, data: Dataset, hyper: Any, state: Any, key: Array
    ) -> tuple[jax.Array, rollouts.Imagined]:
        model, policy = parts(world, hyper, state)
        start_key, plan_key, walk_key = jax.random.split(key, 3)
        index = rollouts.sample_starts(
            start_key, shape, data.size, world.risky, rollout_hyper.risky_start_share
        )
        # Earlier, where the time limit would end the episode on the way.
        index -= jnp.maximum(2 * settings.horizon - data.remaining[index], 0)
        start, planned, source = rollouts.plan_actions(
            settings, rollout_hyper, model, data, index, plan_key
        )
        return index, rollouts.imagine(model, policy, start, planned, source, walk_key)

    @jax.jit
    def recover(
        world: WorldModel, hyper: Any, state: Any, start: Array, key: Array
    ) -> rollouts.Imagined:
        model, policy = parts(world, hyper, state)
        plan_key, walk_key = jax.random.split(key)
        keys = (plan_key, walk_key)
        actions = program.task.action_size
        return rollouts.recover(settings, rollout_hyper, model, policy, start, actions, keys)

    return plan, recover


def _starts(
    env: BatchedEnv,
    episodes: Sequence[Episode],
    seeds: np.ndarray,
    data: Dataset,
    index: np.ndarray,
) -> list[Any]:
    """Snapshots of logged transitions `index [M]`."""
    episode, step = np.asarray(data.episode)[index], np.asarray(data.step)[index]
    at = [(int(seeds[e]), int(t)) for e, t in zip(episode, step, strict=True)]
    logs = {int(seeds[e]): episodes[e] for e in np.unique(episode)}
    saved = simulator_truth.restore(env, logs, at)
    return [saved[x] for x in at]


def _recovery_steps(found: rollouts.Imagined, seed: int, generation: int) -> np.ndarray:
    """`[M]` steps of trajectories from which recovery rollouts begin."""
    unit = np.random.default_rng([seed, 6, generation]).uniform(size=len(found.length))
    return np.minimum((unit * found.length).astype(int), found.action.shape[1] - 1)


def _safe_steps(episode: Episode, last: int) -> np.ndarray:
    """Steps whose state does not cost, with room for an attempt before the time limit."""
    now = np.append(0.0, episode.cost[:-1]) > 0
    return np.flatnonzero(~now[: max(len(now) - last, 0)])
