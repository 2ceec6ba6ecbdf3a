"""Episodes of several policies in the simulator, all stepped as one batch.

World `s * n + j` always belongs to policy `s`, so observations reach the
policies as one `[S, n, O]` array and one compiled call acts for all of them.
"""

import contextlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import logging

from proco_jax.common.progress import Advance, progress
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import Task
from proco_jax.envs.vector import VectorEnv, make_vector_env
from proco_jax.types import Array, Episode

Act = Callable[[np.ndarray, np.ndarray, np.ndarray], Array]
# Between the first episode seeds of two policies, and how many policies' seeds differ:
# from the default `evaluation.seed` on, all stay below those of collections.
APART, POLICIES = 1000, 9000


def evaluate_policies(
    config: Config,
    task: Task,
    act: Act,
    num_policies: int,
    episodes: int,
    *,
    env: VectorEnv | None = None,
    log: Callable[[str], None] | None = logging.info,
) -> list[list[Episode]]:
    """Plays episodes with every policy, those of its seed (`episode_seeds`).

    Args:
      config: its `seed`, `env` and `evaluation` are used.
      task: what is played.
      act: `act(obs [S, n, O] float32, episode_seeds [S, n] int, steps [S, n]
        int) -> actions [S, n, A]`. Called once a step, always with the same
        shapes. A row must depend on nothing but its policy, observation,
        episode seed and step (`action_keys` makes keys of them); then the
        result doesn't depend on how many worlds there are.
      num_policies: S.
      episodes: episodes of each policy, E.
      env: worlds to use again, from `make_evaluation_env`; they stay open.
        None makes them and closes them in the end.
      log: takes lines of progress where there is no terminal for a bar; None
        shows neither.

    Returns:
      `[S][E]` episodes, in the order of their seeds.

    Raises:
      ValueError: if the worlds can't be shared evenly by the policies, or a
        policy returns actions of the wrong shape or that aren't finite.
    """
    worlds = env or make_evaluation_env(config, task, num_policies, episodes)
    failures = worlds.physics_failures
    label = f"{num_policies} x {episodes} episodes of {task.name}"
    total = num_policies * episodes * task.episode_steps
    bar = contextlib.nullcontext() if log is None else progress(label, total, log)
    try:
        with bar as advance:
            return play(worlds, act, episode_seeds(config, num_policies, episodes), advance)
    finally:
        if worlds.physics_failures > failures:
            logging.warning(
                "%d evaluation episodes ended early because the physics became unstable",
                worlds.physics_failures - failures,
            )
        if env is None:
            worlds.close()


def episode_seeds(config: Config, num_policies: int, episodes: int) -> list[range]:
    """The seeds of the episodes that each policy plays, `[S][E]`.

    They follow from the policy's own seed: whatever was learned with it plays the
    same layouts, and other seeds play others (up to `APART` episodes). Layouts differ by more than
    policies do, so 5 x 20 episodes in the same 20 layouts would tell as little as
    20, and an interval over 100 episodes would be too narrow.
    """
    first, own = config.evaluation.seed, range(config.seed, config.seed + num_policies)
    starts = [first + APART * (seed % POLICIES) for seed in own]
    return [range(start, start + episodes) for start in starts]


def make_evaluation_env(config: Config, task: Task, num_policies: int, episodes: int) -> VectorEnv:
    """Worlds for `evaluate_policies`, at most about `config.evaluation.worlds` of them.

    Their number depends on the config alone, not on the machine's cores:
    compiled networks round differently for other batch sizes.
    """
    limit = max(1, config.evaluation.worlds // num_policies)
    rounds = -(-episodes // limit)
    worlds = num_policies * -(-episodes // rounds)
    return make_vector_env(task, worlds, config.env.backend, config.env.workers)


def action_keys(policy_keys: jax.Array, episode_seeds: Array, steps: Array) -> jax.Array:
    """Keys for sampled actions that depend on policy, episode and step alone.

    Args:
      policy_keys: `[S]` typed keys, one a policy.
      episode_seeds: `[S, n]` int.
      steps: `[S, n]` int.

    Returns:
      `[S, n]` keys.
    """

    def one(key: jax.Array, episode_seed: Array, step: Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, episode_seed), step)

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(policy_keys, episode_seeds, steps)


def play(
    env: VectorEnv,
    act: Act,
    seeds: Sequence[Sequence[int]],
    advance: Advance | None = None,
) -> list[list[Episode]]:
    """Plays the episodes of these seeds `[S][E]` in the given worlds.

    Arguments, result and errors are as in `evaluate_policies`; `advance` is
    told the steps done, those that an early end has spared included.
    """
    num_policies, episodes = len(seeds), len(seeds[0]) if seeds else 0
    if num_policies < 1 or env.num_envs % num_policies:
        raise ValueError(
            f"{env.num_envs} worlds can't be shared evenly by {num_policies} policies; "
            "make the worlds with make_evaluation_env"
        )
    share = env.num_envs // num_policies
    pending = [iter(range(episodes)) for _ in range(num_policies)]
    found: list[dict[int, Episode]] = [{} for _ in range(num_policies)]
    worlds = _Worlds(env)

    def prepare(begun: int) -> None:
        env.prepare([seed for own in seeds for seed in own[begun : begun + share]])

    prepare(0)
    free = np.arange(env.num_envs)
    while True:
        taken = [(int(world), next(pending[world // share], None)) for world in free]
        begun = [(w, i, seeds[w // share][i]) for w, i in taken if i is not None]
        worlds.start(begun)
        if free.size:
            prepare(1 + max((index for _, index, _ in begun), default=episodes))
        if not worlds.active.any():
            return [[own[index] for index in range(episodes)] for own in found]
        inputs = (worlds.obs, worlds.seeds, worlds.steps)
        actions = act(*(x.reshape(num_policies, share, *x.shape[1:]) for x in inputs))
        free = worlds.step(_checked(np.asarray(actions, np.float32), num_policies, worlds))
        for world in free:
            found[world // share][worlds.indices[world]] = worlds.episode(world)
        if advance is not None:
            early = env.task.episode_steps - worlds.steps[free]
            advance(int(worlds.active.sum() + free.size + early.sum()))


class _Worlds:
    """The worlds, the episode that each of them plays, and its record so far.

    Attributes:
      obs: `[N, O]` float32, what each world shows now.
      seeds: `[N]` int32, the seed of its episode.
      steps: `[N]` int32, the steps taken in it.
      indices: `[N]` int32, its index in the list of episodes.
      active: `[N]` bool, whether it is in the middle of an episode.
    """

    def __init__(self, env: VectorEnv) -> None:
        count, length = env.num_envs, env.task.episode_steps
        self.env = env
        self.obs = np.zeros((count, env.task.spec.size), np.float32)
        self.seeds, self.steps, self.indices = np.zeros((3, count), np.int32)
        self.active = np.zeros(count, bool)
        self._terminated = np.zeros(count, bool)
        self._obs = np.zeros((count, length + 1, env.task.spec.size), np.float32)
        self._action = np.zeros((count, length, env.task.action_size), np.float32)
        self._reward, self._cost = np.zeros((2, count, length), np.float32)

    def start(self, starts: Sequence[tuple[int, int, int]]) -> None:
        """Starts episodes, given as (world, index, seed)."""
        if not starts:
            return
        worlds, indices, seeds = np.array(starts, np.int32).T
        self.obs[worlds] = self.env.reset(seeds.tolist(), worlds.tolist())
        self.indices[worlds], self.seeds[worlds], self.steps[worlds] = indices, seeds, 0
        self.active[worlds] = True
        self._obs[worlds, 0] = self.obs[worlds]

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Takes `[N, A]` actions; returns the worlds whose episode just ended."""
        result = self.env.step(actions)
        worlds = np.flatnonzero(self.active)
        now = self.steps[worlds]
        self.obs = np.array(result.obs, np.float32)
        self._obs[worlds, now + 1] = self.obs[worlds]
        self._action[worlds, now] = actions[worlds]
        self._reward[worlds, now] = result.reward[worlds]
        self._cost[worlds, now] = result.cost[worlds]
        self._terminated[worlds] = result.terminated[worlds]
        self.steps[worlds] += 1
        ended = worlds[(result.terminated | result.truncated)[worlds]]
        self.active[ended] = False
        return ended

    def episode(self, world: int) -> Episode:
        """A copy of what a world recorded."""
        steps = int(self.steps[world])
        return Episode(
            obs=self._obs[world, : steps + 1].copy(),
            action=self._action[world, :steps].copy(),
            reward=self._reward[world, :steps].copy(),
            cost=self._cost[world, :steps].copy(),
            terminated=bool(self._terminated[world]),
        )


def _checked(actions: np.ndarray, num_policies: int, worlds: _Worlds) -> np.ndarray:
    """The actions as `[N, A]`.

    Raises:
      ValueError: if their shape is wrong or one of an active world isn't finite.
    """
    count, size = worlds.env.num_envs, worlds.env.task.action_size
    share = count // num_policies
    if actions.shape != (num_policies, share, size):
        raise ValueError(
            f"the policies returned actions of shape {actions.shape}, "
            f"expected [S, n, A] = {(num_policies, share, size)}"
        )
    flat = actions.reshape(count, size)
    bad = np.flatnonzero(worlds.active & ~np.isfinite(flat).all(axis=1))
    if bad.size:
        world = bad[0]
        raise ValueError(
            f"policy {world // share} returned the action {flat[world]} at step "
            f"{worlds.steps[world]} of episode seed {worlds.seeds[world]}; "
            "its parameters have probably diverged"
        )
    return np.where(worlds.active[:, None], flat, np.float32(0))
