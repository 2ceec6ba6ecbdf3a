"""Episodes of several policies in the simulator, all stepped as one batch.

World `s * n + j` always belongs to policy `s`, so the policies receive observations as one
`[S, n, O]` array, and one compiled call acts for all of them.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from proco_jax.common.progress import Advance, progress
from proco_jax.config.schema import EVALUATION_SEED_SLOTS, EVALUATION_SEED_SPACING, Config
from proco_jax.envs.episodes import Observed, run_grouped_episodes
from proco_jax.envs.own import OwnEnv, OwnWorlds, find_maker
from proco_jax.envs.tasks import Task
from proco_jax.envs.vector import VectorEnv, make_vector_env
from proco_jax.system.description import load_system
from proco_jax.types import Array, Episode


class Player(NamedTuple):
    """How policies act in an evaluation.

    Attributes:
      initial_carry: (S, n) to the policies' memory at the start of n episodes each.
      act: (carry, observed with leaves `[S, n, ...]`) to (actions `[S, n, A]`, carry). Called once
        per step, always with the same shapes. It must reset the memory of rows whose step is 0. The
        action of a row must depend only on its policy and episode (`action_keys` makes keys
        accordingly); then the result does not depend on the number of worlds.
    """

    initial_carry: Callable[[int, int], Any]
    act: Callable[[Any, Observed], tuple[Array, Any]]


def memoryless(act: Callable[[np.ndarray, np.ndarray, np.ndarray], Array]) -> Player:
    """A player of policies without memory: (obs, seeds, steps) to actions `[S, n, A]`."""
    return Player(
        lambda policies, count: (), lambda carry, o: (act(o.obs, o.seeds, o.steps), carry)
    )


def evaluate_policies(
    config: Config,
    task: Task,
    player: Player,
    num_policies: int,
    episodes: int,
    *,
    env: VectorEnv | None = None,
    log: Callable[[str], None] | None = logging.info,
) -> list[list[Episode]]:
    """Runs episodes with every policy, with the seeds of `episode_seeds`.

    Args:
      config: its `seed`, `env` and `evaluation` are used.
      task: the task.
      player: how the policies act.
      num_policies: S.
      episodes: episodes of each policy, E.
      env: worlds to use again, from `make_evaluation_env`; they stay open. None makes worlds and
        closes them at the end.
      log: takes lines of progress where there is no terminal for a bar; None shows neither.

    Returns:
      `[S][E]` episodes, in the order of their seeds.

    Raises:
      ValueError: if the worlds cannot be shared evenly by the policies, or a policy returns actions
        that are not finite or have the wrong shape.
    """
    worlds = env or make_evaluation_env(config, task, num_policies, episodes)
    failures = worlds.physics_failures
    label = f"{num_policies} x {episodes} episodes of {task.name}"
    total = num_policies * episodes * task.episode_steps
    bar = contextlib.nullcontext() if log is None else progress(label, total, log)
    try:
        with bar as advance:
            return play(worlds, player, episode_seeds(config, num_policies, episodes), advance)
    finally:
        if worlds.physics_failures > failures:
            logging.warning(
                "%d evaluation episodes ended early because the physics became unstable",
                worlds.physics_failures - failures,
            )
        if env is None:
            worlds.close()


def episode_seeds(config: Config, num_policies: int, episodes: int) -> list[range]:
    """The seeds of each policy's episodes, `[S][E]`.

    They follow from the policy's own seed: all policies trained with it see the same layouts, and
    those of other seeds see others (up to `EVALUATION_SEED_SPACING` episodes). Layouts differ more
    than policies do: an interval over 5 x 20 episodes in the same 20 layouts would be too narrow.
    """
    first, own = config.evaluation.seed, range(config.seed, config.seed + num_policies)
    starts = [first + EVALUATION_SEED_SPACING * (seed % EVALUATION_SEED_SLOTS) for seed in own]
    return [range(start, start + episodes) for start in starts]


def make_evaluation_env(config: Config, task: Task, num_policies: int, episodes: int) -> VectorEnv:
    """Worlds for `evaluate_policies`, at most about `config.evaluation.worlds` of them.

    Their number depends on the config alone, not on the machine's cores, since compiled networks
    round differently for other batch sizes.
    """
    limit = max(1, config.evaluation.worlds // num_policies)
    rounds = -(-episodes // limit)
    worlds = num_policies * -(-episodes // rounds)
    if config.system.env:
        return OwnWorlds(task, _own_env(config), worlds)
    return make_vector_env(task, worlds, config.env.backend, config.env.workers)


def _own_env(config: Config) -> OwnEnv:
    """The environment of a system of the user's own, judged by its cost or else by the rule."""
    system = load_system(config.system.file)
    rule, reward = system.knowledge.rule, system.reward
    return OwnEnv(
        find_maker(config.system.env),
        system.unscale,
        None if rule is None else lambda obs: np.asarray(rule.unsafe(obs)),
        None if reward is None else lambda obs: np.asarray(reward.value(obs)),
    )


def play(
    env: VectorEnv,
    player: Player,
    seeds: Sequence[Sequence[int]],
    advance: Advance | None = None,
) -> list[list[Episode]]:
    """Runs the episodes of these seeds `[S][E]` in the given worlds.

    Arguments, result and errors are as in `evaluate_policies`; `advance` is called with the number
    of steps done, including those that an early termination makes unnecessary.
    """
    num_policies = len(seeds)
    if num_policies < 1 or env.num_envs % num_policies:
        raise ValueError(
            f"{env.num_envs} worlds cannot be shared evenly by {num_policies} policies; "
            "make the worlds with make_evaluation_env"
        )
    share, size = env.num_envs // num_policies, env.task.action_size
    carry = player.initial_carry(num_policies, share)

    def act(flat: Observed) -> np.ndarray:
        nonlocal carry
        observed = Observed(*(x.reshape(num_policies, share, *x.shape[1:]) for x in flat))
        actions, carry = player.act(carry, observed)
        return _checked(np.asarray(actions, np.float32), (num_policies, share, size), flat)

    return run_grouped_episodes(env, act, seeds, advance=advance)


def _checked(actions: np.ndarray, shape: tuple[int, int, int], flat: Observed) -> np.ndarray:
    """The actions `[S, n, A]` as `[N, A]`.

    Raises:
      ValueError: if their shape is wrong, or one of an active world is not finite.
    """
    if actions.shape != shape:
        raise ValueError(
            f"the policies returned actions of shape {actions.shape}, expected [S, n, A] = {shape}"
        )
    rows = actions.reshape(-1, shape[2])
    bad = np.flatnonzero(flat.active & ~np.isfinite(rows).all(axis=1))
    if bad.size:
        world = bad[0]
        raise ValueError(
            f"policy {world // shape[1]} returned the action {rows[world]} at step "
            f"{flat.steps[world]} of episode seed {flat.seeds[world]}; "
            "its parameters have probably diverged"
        )
    return rows
