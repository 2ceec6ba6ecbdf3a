"""The stages that train a policy, and play it in the simulator."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from proco_jax.algorithms import proco
from proco_jax.common import sharding as devices
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.common.progress import progress
from proco_jax.deployment import shield as acting
from proco_jax.envs.tasks import Task
from proco_jax.evaluation.episodes import action_keys, evaluate_policies
from proco_jax.evaluation.results import FILE, load_rows, result_row, write_rows
from proco_jax.pipeline.fits import check_finite
from proco_jax.pipeline.workdir import Run
from proco_jax.training import loop as train
from proco_jax.training.loop import Context, Parts
from proco_jax.types import Array

ALGORITHM, CLONING = "actor-critic", "behaviour cloning"
EVALUATION_STREAM = 1_000_003


class Learner(NamedTuple):
    """One of the compared learners.

    Attributes:
      name: in the workdir.
      proco: whether it learns from generated costs.
      algorithm: its name in the results.
    """

    name: str
    proco: bool
    algorithm: str = ALGORITHM


def train_policies(
    run: Run, parts: Parts, task: Task, context: Context, learner: Learner
) -> train.TrainState:
    """Trains all seeds of a learner in one program, or goes on from a checkpoint.

    Returns:
      The last states, every leaf with a leading axis S.
    """
    config = run.config.train
    stage = f"train/{learner.name}"
    keys = train.seed_keys(run.config.seed, run.config.seeds)
    init, chunk = train.make_train_init(parts), train.make_train_chunk(parts)
    context = place(run, parts, context)
    with Checkpoints(run.checkpoints(learner.name)) as saved:
        done = saved.latest or 0
        if done:
            like = jax.eval_shape(init, context, keys)
            state = devices.shard_seeds(saved.restore(like), run.config.seeds)
        else:
            state = init(context, devices.shard_seeds(keys, run.config.seeds))
            state = devices.spread_rows(state, run.config.seeds)
        run.metrics.resume(stage, done)
        own = functools.partial(devices.own_seeds, seeds=run.config.seeds)
        # A kill may have come between a checkpoint and the evaluation it was saved for.
        _evaluate_if_due(run, parts, task, context, learner, own(state), done)
        with progress(stage, config.steps, run.log, done) as advance:
            while done < config.steps:
                state, metrics = chunk(context, state)
                done += config.chunk
                metrics = own(metrics)
                check_finite(stage, done, metrics)
                run.metrics.write(stage, done, metrics)
                advance(config.chunk)
                due = _evaluation_due(run, done)
                if due or done % config.checkpoint_every == 0 or done == config.steps:
                    saved.save(done, own(state))
                if due:
                    _evaluate_if_due(run, parts, task, context, learner, own(state), done)
    return own(state)


def evaluate_agents(
    run: Run,
    parts: Parts,
    task: Task,
    context: Context,
    agents: proco.AgentState,
    learner: Learner,
    step: int,
    episodes: int,
) -> None:
    """Plays every seed's policy and writes the rows of `results.json`."""
    config = run.config
    found = evaluate_policies(
        config, task, make_act(run, parts, context, agents), config.seeds, episodes, log=run.log
    )
    rows = [
        result_row(
            task,
            played,
            regime=config.data.regime,
            algorithm=learner.algorithm,
            proco=learner.proco,
            seed=config.seed + i,
            step=step,
        )
        for i, played in enumerate(found)
    ]
    write_rows(run.workdir / FILE, rows)


def evaluated(run: Run, learner: Learner, step: int, episodes: int) -> bool:
    """Whether `results.json` holds every seed of a learner at a step."""
    path = run.workdir / FILE
    rows = load_rows(path) if path.exists() else []
    seeds = {
        row["seed"]
        for row in rows
        if (row["algorithm"], row["proco"], row["step"], row["episodes"])
        == (learner.algorithm, learner.proco, step, episodes)
    }
    return seeds >= set(range(run.config.seed, run.config.seed + run.config.seeds))


def make_act(
    run: Run, parts: Parts, context: Context, agents: proco.AgentState, seeds: int | None = None
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], Array]:
    """The deployed policies: obs `[S, n, O]`, episode seeds and steps `[S, n]` to actions.

    Args:
      context: what they were trained on; with knowledge, they look for a way out
        in its model where they know none.
      agents: with leading axis S.
      seeds: S, if not all seeds of the run.
    """
    keys = train.seed_keys(run.config.seed, seeds or run.config.seeds)
    keys = jax.vmap(lambda k: jax.random.fold_in(k, EVALUATION_STREAM))(keys)
    model = None if context.knowledge is None else context.knowledge.model

    @jax.jit
    def act(
        scale: Any, model: Any, agents: Any, obs: Array, episode_seeds: Array, steps: Array
    ) -> jax.Array:
        drawn = action_keys(keys, episode_seeds, steps)
        return acting.act(parts, scale, model, agents, obs, drawn)

    # Training may have spread the agents over devices, and a model is looked into one by one.
    here = jax.device_put((context.scale, model, agents), jax.local_devices()[0])
    return functools.partial(act, *here)


def place(run: Run, parts: Parts, context: Context) -> Context:
    """Puts the context on the devices: logs on all, each seed's own knowledge with the seed."""
    seeds = run.config.seeds
    spread = devices.shard_seeds if run.config.dynamics.per_seed else devices.replicate
    knowledge = None if context.knowledge is None else spread(context.knowledge, seeds)
    data, scale = devices.replicate((context.data, context.scale), seeds)
    return Context(data, scale, knowledge)


def _evaluation_due(run: Run, step: int) -> bool:
    """Interim evaluations; the last step has the final one."""
    config = run.config.evaluation
    wanted = config.interim_episodes > 0 and step % config.interim_every == 0
    return wanted and 0 < step < run.config.train.steps


def _evaluate_if_due(
    run: Run,
    parts: Parts,
    task: Task,
    context: Context,
    learner: Learner,
    state: train.TrainState,
    step: int,
) -> None:
    episodes = run.config.evaluation.interim_episodes
    if _evaluation_due(run, step) and not evaluated(run, learner, step, episodes):
        evaluate_agents(run, parts, task, context, state.agent, learner, step, episodes)
