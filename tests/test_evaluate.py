import dataclasses
import types
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.config.schema import Config
from proco_jax.data.collection import FIRST_SEED
from proco_jax.envs.tasks import get_task
from proco_jax.envs.vector import StepResult
from proco_jax.evaluation import episodes as evaluate

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

    Even seeds end for true after 7 steps. Shows position and seed.
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


@jax.jit
def noisy_act(obs, seeds, steps):
    keys = evaluate.action_keys(jax.vmap(jax.random.key)(jnp.arange(obs.shape[0])), seeds, steps)
    noise = jax.vmap(jax.vmap(jax.random.normal))(keys)
    return (0.1 * noise - 0.05 * obs[..., 0])[..., None]


def assert_same(left, right):
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_episode_is_recorded_as_it_was_played():
    task: Any = Line()
    config = Config()
    config.evaluation.seed = 3
    ((episode,),) = evaluate.evaluate_policies(
        config,
        task,
        lambda obs, seeds, steps: np.full((1, 1, 1), 0.5) + steps[..., None],
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


def test_a_true_end_is_shorter_and_marked():
    ((even, odd),) = evaluate.play(LineEnv(1), noisy_act, [[4, 5]])
    assert even.terminated and even.reward.shape == (7,) and even.obs.shape == (8, 2)
    assert not odd.terminated and odd.reward.shape == (LENGTH,)


@pytest.mark.parametrize("worlds", [3, 6, 12])
def test_the_result_does_not_depend_on_how_many_worlds_there_are(worlds):
    seeds = [range(100, 105), range(200, 205), range(100, 105)]
    wide = evaluate.play(LineEnv(15), noisy_act, seeds)
    assert_same(wide, evaluate.play(LineEnv(worlds), noisy_act, seeds))


def test_a_policy_plays_the_same_alone_as_among_others():
    together = evaluate.play(LineEnv(6), noisy_act, [range(7), range(9, 16), range(7)])
    alone = evaluate.play(LineEnv(2), noisy_act, [range(7)])
    assert_same(together[0], alone[0])


def test_every_policy_plays_its_own_seeds_in_order_with_its_own_noise():
    seeds = [range(50, 55), range(70, 75), range(50, 55)]
    played = evaluate.play(LineEnv(6), noisy_act, seeds)
    for episodes, own in zip(played, seeds, strict=True):
        assert [int(episode.obs[0, 1]) for episode in episodes] == list(own)
    assert not np.allclose(played[0][1].action, played[2][1].action)


def test_the_layouts_of_a_policy_follow_from_its_own_seed_and_are_no_one_elses():
    config = Config(seed=3)
    config.evaluation.seed = 500
    together = evaluate.episode_seeds(config, 4, 20)
    assert together == [range(500 + 1000 * s, 520 + 1000 * s) for s in (3, 4, 5, 6)]
    assert evaluate.episode_seeds(dataclasses.replace(config, seed=5), 1, 20) == [together[2]]


@pytest.mark.parametrize("seed", [0, 8_999, 9_000, 2**31 - 1])
def test_no_policy_is_evaluated_in_a_layout_that_was_collected(seed):
    (found,) = evaluate.episode_seeds(Config(seed=seed), 1, evaluate.APART)
    assert found[-1] < FIRST_SEED


def test_worlds_can_be_used_again_with_fewer_episodes_than_worlds():
    env = LineEnv(8)
    first = evaluate.play(env, noisy_act, [range(3)] * 2)
    evaluate.play(env, noisy_act, [range(9)] * 2)
    assert_same(first, evaluate.play(env, noisy_act, [range(3)] * 2))


def test_the_batch_always_has_the_same_shape():
    shapes = set()

    def act(obs, seeds, steps):
        shapes.add((obs.shape, seeds.shape, steps.shape))
        return np.zeros((*obs.shape[:2], 1))

    evaluate.play(LineEnv(6), act, [range(7)] * 2)
    assert shapes == {((2, 3, 2), (2, 3), (2, 3))}


def test_action_keys_depend_on_policy_episode_and_step_alone():
    policies = jax.vmap(jax.random.key)(jnp.arange(2))
    seeds = np.array([[5, 6], [5, 6]])
    keys = jax.random.key_data(evaluate.action_keys(policies, seeds, np.zeros_like(seeds)))
    assert len({tuple(key) for key in np.asarray(keys).reshape(4, -1)}) == 4
    swapped = evaluate.action_keys(policies, seeds[:, ::-1], np.zeros_like(seeds))
    np.testing.assert_array_equal(jax.random.key_data(swapped), keys[:, ::-1])


def test_the_worlds_made_are_shared_evenly_and_follow_the_config_only(monkeypatch):
    config = Config()
    config.env.workers = 3
    made = []
    monkeypatch.setattr(evaluate, "make_vector_env", lambda *args: made.append(args))
    task: Any = Line()
    for policies, episodes in ((5, 20), (5, 2), (100, 20)):
        evaluate.make_evaluation_env(config, task, policies, episodes)
    assert made == [(task, worlds, config.env.backend, 3) for worlds in (35, 10, 100)]


def test_own_worlds_are_closed_even_when_the_policy_fails(monkeypatch):
    env = LineEnv(1)
    monkeypatch.setattr(evaluate, "make_vector_env", lambda *args: env)
    task: Any = Line()
    with pytest.raises(ValueError, match="shape"):
        evaluate.evaluate_policies(Config(), task, lambda *_: np.zeros((1, 1, 9)), 1, 1, log=None)
    assert env.closed


def test_non_finite_actions_name_policy_seed_and_step():
    def act(obs, seeds, steps):
        return np.where((steps == 2) & (seeds == 11), np.nan, 0.0)[..., None]

    with pytest.raises(ValueError, match=r"policy 0 .* step 2 of episode seed 11"):
        evaluate.play(LineEnv(2), act, [[10, 11]])


def test_worlds_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match=r"5 worlds .* 2 policies"):
        evaluate.play(LineEnv(5), noisy_act, [range(2)] * 2)


def test_progress_adds_up_to_the_whole_work():
    told = []
    evaluate.play(LineEnv(4), noisy_act, [range(5)] * 2, told.append)
    assert sum(told) == 2 * 5 * LENGTH


@pytest.mark.slow
def test_real_episodes_of_two_policies_are_those_of_one_world_alone():
    scene = pytest.importorskip("proco_jax.report.scene")
    task = get_task("PointCircle1")
    config = Config()
    config.env.backend, config.env.workers, config.evaluation.worlds = "official", 2, 2

    def act(obs, seeds, steps):
        turn = np.sin(0.01 * steps) + 0.1 * np.arange(obs.shape[0])[:, None]
        return np.stack([0.5 + 0 * turn, turn], axis=-1)

    played = evaluate.evaluate_policies(config, task, act, 2, 2, log=None)
    first = config.evaluation.seed
    alone = scene.record_episode(task, act, first, stride=500).scenes[-1]
    episode = played[0][0]
    assert episode.obs.shape == (501, task.spec.size) and not episode.terminated
    assert alone.episode_return == pytest.approx(episode.reward.sum(), rel=1e-5)
    assert alone.cost == episode.cost.sum()
    assert played[0][0].reward.sum() != played[1][0].reward.sum()
    assert not np.array_equal(played[0][1].obs[0], played[1][1].obs[0])
