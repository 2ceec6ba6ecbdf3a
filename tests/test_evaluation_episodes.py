"""Episodes of several policies in a batch of worlds equal those of each policy alone."""

import dataclasses
import types
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.common.random_streams import action_keys
from proco_jax.config.schema import EVALUATION_SEED_SPACING, FIRST_COLLECTION_SEED, Config
from proco_jax.envs.tasks import get_task
from proco_jax.envs.vector import StepResult
from proco_jax.evaluation import episodes as evaluation
from proco_jax.evaluation.episodes import Observed, Player, memoryless

LENGTH = 12


@dataclasses.dataclass(frozen=True)
class Line:
    """The task of a point on a line."""

    name: str = "Line"
    episode_steps: int = LENGTH
    action_size: int = 1
    spec: Any = dataclasses.field(default_factory=lambda: types.SimpleNamespace(size=2))


class LineEnv:
    """A point on a line, pushed by the action and by noise of the episode's seed.

    Episodes of even seeds terminate after 7 steps. An observation is position and seed.
    """

    def __init__(self, num_envs: int) -> None:
        self.task: Any = Line()
        self.num_envs = num_envs
        self.physics_failures = 0
        self.closed = False
        self._place = np.zeros(num_envs)
        self._seed = np.zeros(num_envs, int)
        self._step = np.full(num_envs, LENGTH)

    def reset(self, seeds, worlds=None):
        worlds = list(range(self.num_envs)) if worlds is None else worlds
        self._place[worlds] = np.array(seeds) % 10 / 10
        self._seed[worlds] = seeds
        self._step[worlds] = 0
        return self._obs()[worlds]

    def prepare(self, seeds: Sequence[int]) -> None:
        self.prepared = list(seeds)

    def step(self, actions):
        over = self._over()
        moved = actions[:, 0] + 0.01 * (self._seed % 7)
        self._place = np.where(over, self._place, self._place + moved)
        self._step = np.where(over, self._step, self._step + 1)
        reward = np.where(over, 0, self._place).astype(np.float32)
        cost = np.where(over, 0, self._place > 1).astype(np.float32)
        terminated = (self._seed % 2 == 0) & (self._step == 7) & ~over
        return StepResult(self._obs(), reward, cost, terminated, over | (self._step == LENGTH))

    def close(self):
        self.closed = True

    def _over(self):
        return (self._step >= LENGTH) | ((self._seed % 2 == 0) & (self._step >= 7))

    def _obs(self):
        return np.stack([self._place, self._seed], axis=1).astype(np.float32)


@memoryless
@jax.jit
def noisy(obs, seeds, steps):
    """A player without memory, whose actions are random."""
    keys = action_keys(jax.vmap(jax.random.key)(jnp.arange(obs.shape[0])), seeds, steps)
    noise = jax.vmap(jax.vmap(jax.random.normal))(keys)
    return (0.1 * noise - 0.05 * obs[..., 0])[..., None]


def assert_same(left, right):
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_episode_records_every_step():
    task: Any = Line()
    config = Config()
    config.evaluation.seed = 3
    ((episode,),) = evaluation.evaluate_policies(
        config,
        task,
        memoryless(lambda obs, seeds, steps: np.full((1, 1, 1), 0.5) + steps[..., None]),
        1,
        1,
        env=LineEnv(1),
        log=None,
    )
    np.testing.assert_allclose(episode.action[:, 0], 0.5 + np.arange(LENGTH))
    place = 0.3 + np.cumsum(episode.action[:, 0] + 0.03)
    np.testing.assert_allclose(episode.obs[1:, 0], place, rtol=1e-6)
    np.testing.assert_allclose(episode.reward, place, rtol=1e-6)
    np.testing.assert_array_equal(episode.cost, (place > 1).astype(np.float32))
    assert episode.obs.shape == (LENGTH + 1, 2) and not episode.terminated


def test_a_terminated_episode_is_shorter_and_marked():
    ((even, odd),) = evaluation.play(LineEnv(1), noisy, [[4, 5]])
    assert even.terminated and even.reward.shape == (7,) and even.obs.shape == (8, 2)
    assert not odd.terminated and odd.reward.shape == (LENGTH,)


@pytest.mark.parametrize("worlds", [3, 6, 12])
def test_the_result_does_not_depend_on_the_number_of_worlds(worlds):
    seeds = [range(100, 105), range(200, 205), range(100, 105)]
    wide = evaluation.play(LineEnv(15), noisy, seeds)
    assert_same(wide, evaluation.play(LineEnv(worlds), noisy, seeds))


def test_a_policy_acts_the_same_alone_and_beside_others():
    together = evaluation.play(LineEnv(6), noisy, [range(7), range(9, 16), range(7)])
    alone = evaluation.play(LineEnv(2), noisy, [range(7)])
    assert_same(together[0], alone[0])


def test_every_policy_runs_its_own_seeds_in_order_with_its_own_noise():
    seeds = [range(50, 55), range(70, 75), range(50, 55)]
    played = evaluation.play(LineEnv(6), noisy, seeds)
    for episodes, own in zip(played, seeds, strict=True):
        assert [int(episode.obs[0, 1]) for episode in episodes] == list(own)
    assert not np.allclose(played[0][1].action, played[2][1].action)


def test_the_layouts_of_a_policy_follow_from_its_own_seed_alone():
    config = Config(seed=3)
    config.evaluation.seed = 500
    together = evaluation.episode_seeds(config, 4, 20)
    assert together == [range(500 + 1000 * s, 520 + 1000 * s) for s in (3, 4, 5, 6)]
    assert evaluation.episode_seeds(dataclasses.replace(config, seed=5), 1, 20) == [together[2]]


@pytest.mark.parametrize("seed", [0, 8_999, 9_000, 2**31 - 1])
def test_no_policy_is_evaluated_in_a_layout_of_a_collection(seed):
    (found,) = evaluation.episode_seeds(Config(seed=seed), 1, EVALUATION_SEED_SPACING)
    assert found[-1] < FIRST_COLLECTION_SEED


def test_worlds_can_be_used_again_with_fewer_episodes_than_worlds():
    env = LineEnv(8)
    first = evaluation.play(env, noisy, [range(3)] * 2)
    evaluation.play(env, noisy, [range(9)] * 2)
    assert_same(first, evaluation.play(env, noisy, [range(3)] * 2))


def test_the_batch_always_has_the_same_shape():
    shapes = set()

    def act(obs, seeds, steps):
        shapes.add((obs.shape, seeds.shape, steps.shape))
        return np.zeros((*obs.shape[:2], 1))

    evaluation.play(LineEnv(6), memoryless(act), [range(7)] * 2)
    assert shapes == {((2, 3, 2), (2, 3), (2, 3))}


def test_action_keys_depend_on_policy_episode_and_step_alone():
    policies = jax.vmap(jax.random.key)(jnp.arange(2))
    seeds = np.array([[5, 6], [5, 6]])
    keys = jax.random.key_data(action_keys(policies, seeds, np.zeros_like(seeds)))
    assert len({tuple(key) for key in np.asarray(keys).reshape(4, -1)}) == 4
    swapped = action_keys(policies, seeds[:, ::-1], np.zeros_like(seeds))
    np.testing.assert_array_equal(jax.random.key_data(swapped), keys[:, ::-1])


def test_the_number_of_worlds_follows_from_the_config_alone(monkeypatch):
    config = Config()
    config.env.workers = 3
    made = []
    monkeypatch.setattr(evaluation, "make_vector_env", lambda *args: made.append(args))
    task: Any = Line()
    for policies, episodes in ((5, 20), (5, 2), (100, 20)):
        evaluation.make_evaluation_env(config, task, policies, episodes)
    assert made == [(task, worlds, config.env.backend, 3) for worlds in (35, 10, 100)]


def test_own_worlds_are_closed_even_when_the_policy_fails(monkeypatch):
    env = LineEnv(1)
    monkeypatch.setattr(evaluation, "make_vector_env", lambda *args: env)
    task: Any = Line()
    with pytest.raises(ValueError, match="shape"):
        player = memoryless(lambda *_: np.zeros((1, 1, 9)))
        evaluation.evaluate_policies(Config(), task, player, 1, 1, log=None)
    assert env.closed


def test_non_finite_actions_name_policy_seed_and_step():
    def act(obs, seeds, steps):
        return np.where((steps == 2) & (seeds == 11), np.nan, 0.0)[..., None]

    with pytest.raises(ValueError, match=r"policy 0 .* step 2 of episode seed 11"):
        evaluation.play(LineEnv(2), memoryless(act), [[10, 11]])


def test_worlds_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match=r"5 worlds .* 2 policies"):
        evaluation.play(LineEnv(5), noisy, [range(2)] * 2)


def test_progress_adds_up_to_all_steps():
    advanced = []
    evaluation.play(LineEnv(4), noisy, [range(5)] * 2, advanced.append)
    assert sum(advanced) == 2 * 5 * LENGTH


def remembering() -> Player:
    """Policies that count the steps of an episode and sum up what they are told of its past."""

    def initial_carry(policies: int, count: int) -> np.ndarray:
        return np.zeros((policies, count, 2))

    def act(carry: np.ndarray, observed: Observed) -> tuple[np.ndarray, np.ndarray]:
        carry = np.where(observed.steps[..., None] == 0, 0.0, carry)
        past = observed.reward + 10 * observed.cost + 100 * observed.action[..., 0]
        carry = carry + np.stack([np.ones_like(past), past], axis=-1)
        return 0.1 * np.cos(carry.sum(axis=-1, keepdims=True)), carry

    return Player(initial_carry, act)


def test_a_memory_sees_the_last_step_and_nothing_of_an_earlier_episode():
    """One world for three episodes; each is computed again from its own record."""
    (played,) = evaluation.play(LineEnv(1), remembering(), [[8, 9, 11]])
    for episode in played:
        past = episode.reward + 10 * episode.cost + 100 * episode.action[:, 0]
        steps = np.arange(1, len(past) + 1)
        seen = steps + np.concatenate([[0.0], np.cumsum(past)[:-1]])
        np.testing.assert_allclose(episode.action[:, 0], 0.1 * np.cos(seen), atol=1e-4)
    assert any(episode.cost.any() for episode in played)


@pytest.mark.parametrize("worlds", [2, 4, 10])
def test_policies_with_a_memory_do_not_depend_on_the_number_of_worlds(worlds):
    seeds = [range(100, 105), range(200, 205)]
    wide = evaluation.play(LineEnv(10), remembering(), seeds)
    found = evaluation.play(LineEnv(worlds), remembering(), seeds)
    for one, other in zip(jax.tree.leaves(wide), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_world_without_an_episode_is_not_active_and_gets_no_action():
    """Policies of three episodes in two worlds each: one world of each is idle in the end."""
    active, executed = [], []

    def act(carry: tuple, observed: Observed) -> tuple[np.ndarray, tuple]:
        active.append(observed.active.copy())
        return np.where(observed.active, 0.5, np.nan)[..., None], carry

    class Recording(LineEnv):
        def step(self, actions):
            executed.append(actions.copy())
            return super().step(actions)

    evaluation.play(Recording(4), Player(lambda policies, count: (), act), [[1, 3, 5]] * 2)
    assert sum(x.sum() for x in active) == 2 * 3 * LENGTH and not np.all(active)
    for mask, actions in zip(active, executed, strict=True):
        np.testing.assert_array_equal(actions[:, 0], np.where(mask.ravel(), 0.5, 0.0))


@pytest.mark.slow
def test_real_episodes_of_two_policies_are_those_of_one_world_alone():
    scene = pytest.importorskip("proco_jax.report.scene")
    task = get_task("PointCircle1")
    config = Config()
    config.env.backend, config.env.workers, config.evaluation.worlds = "official", 2, 2

    def act(obs, seeds, steps):
        turn = np.sin(0.01 * steps) + 0.1 * np.arange(obs.shape[0])[:, None]
        return np.stack([0.5 + 0 * turn, turn], axis=-1)

    player = memoryless(act)
    played = evaluation.evaluate_policies(config, task, player, 2, 2, log=None)
    first = config.evaluation.seed
    alone = scene.record_episode(task, player, first, stride=500).scenes[-1]
    episode = played[0][0]
    assert episode.obs.shape == (501, task.spec.size) and not episode.terminated
    assert alone.episode_return == pytest.approx(episode.reward.sum(), rel=1e-5)
    assert alone.cost == episode.cost.sum()
    assert played[0][0].reward.sum() != played[1][0].reward.sum()
    assert not np.array_equal(played[0][1].obs[0], played[1][1].obs[0])
