"""Imagined episodes: how they are made, which are kept, and their place in training batches."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import SPEC, tiny_config, toy_context, toy_program

from proco_jax.augmentation.base import Context, ImaginedEpisodes, Outcome, World
from proco_jax.config.schema import replaced
from proco_jax.data.logs import to_dataset
from proco_jax.models.normalizer import Normalizer
from proco_jax.pipeline.imagined_episodes import choose, learns_from_episodes
from proco_jax.pipeline.policies import Learner
from proco_jax.training import loop, sampling
from proco_jax.training.imagined_episodes import Walks, walk
from proco_jax.types import Episode

# The bonus, the position from which it occurs for sure, and that from which the world is lost.
BONUS, GOAL, LOST = 7.0, 3.0, 4.5


def count_up(positions: float) -> World:
    """A world whose state is a position, to which actions are added; unsafe above 2."""

    def step(key: jax.Array, state: jax.Array, action: jax.Array) -> Outcome:
        after = state + action
        x = after[..., 0]
        return Outcome(after, 10.0 * x, 1.0 * (x >= GOAL), x > 2.0, x >= LOST)

    def starts(key: jax.Array, n: int, share: jax.Array) -> jax.Array:
        return jnp.full((n, 1), positions)

    return World(
        normalizer=Normalizer(jnp.zeros(1), jnp.ones(1)),
        observe=lambda state: state,
        step=step,
        bonus=jnp.float32(BONUS),
        # After a bonus the robot is back at 0.
        redraw=lambda key, state, bonus: jnp.where(bonus[:, None], 0.0, state),
        starts=starts,
        logged=lambda key, n: (jnp.zeros((n, 1)), jnp.zeros((n, 1)), jnp.ones(n, bool)),
    )


def test_a_walk_by_hand():
    # One step up each time: 1, 2, 3 (unsafe, goal, back to 0), 1, 2.
    found = walk(count_up(0.0), lambda key, obs: jnp.ones_like(obs), 2, 5, jax.random.key(0))
    for i in range(2):
        np.testing.assert_array_equal(found.obs[i, :, 0], [0, 1, 2, 0, 1, 2])
        np.testing.assert_array_equal(found.action[i, :, 0], 1.0)
        np.testing.assert_array_equal(found.reward[i], [10, 20, 30 + BONUS, 10, 20])
        np.testing.assert_array_equal(found.cost[i], [0, 0, 1, 0, 0])
    assert not found.lost.any()


def test_a_world_that_was_lost_once_counts_as_lost():
    # From 3 to 5, beyond LOST, and after the goal on from 0.
    found = walk(count_up(3.0), lambda key, obs: jnp.full_like(obs, 2.0), 1, 3, jax.random.key(0))
    np.testing.assert_array_equal(found.obs[0, :, 0], [3, 0, 2, 0])
    assert found.lost.all()


def walks(cost: Sequence[Sequence[float]], lost: list[bool]) -> Walks:
    count, steps = np.shape(cost)
    obs = np.broadcast_to(np.arange(count)[:, None, None], (count, steps + 1, 1)).astype(float)
    return Walks(obs, obs[:, 1:], obs[:, 1:, 0], np.array(cost), np.array(lost))


def kept(found: list[Episode]) -> list[int]:
    return [int(e.obs[0, 0]) for e in found]


def test_episodes_without_a_cost_are_kept_unless_they_are_lost():
    made = walks([[0, 0], [0, 1], [0, 0], [0, 0]], [False, False, True, False])
    found = choose(made)
    assert kept(found) == [0, 3]
    assert not any(e.cost.any() or e.terminated for e in found)


def test_of_episodes_that_all_have_a_cost_those_with_the_least_are_kept():
    made = walks([[1, 1], [0, 1], [1, 1]] + [[1, 1]] * 5, [False] * 8)
    assert kept(choose(made)) == [1]
    made = walks([[1, 1], [0, 1], [1, 1]] + [[1, 1]] * 6, [False] * 9)
    assert kept(choose(made)) == [0, 1]


def test_of_lost_episodes_nothing_is_kept():
    assert choose(walks([[0, 0], [1, 1]], [True, True])) == []


@pytest.mark.parametrize(
    ("algorithm", "augmentation", "changes", "expected"),
    [
        ("bc", "proco", {}, True),
        ("cdt", "control", {}, True),
        ("toy_algorithm:make", "proco", {}, True),
        ("proco", "proco", {}, False),
        ("bc", "none", {}, False),
        ("bc", "proco", {"proco.imagination.updates": 0}, False),
        ("bc", "proco", {"augmentation.episode_share": 0.0}, False),
    ],
)
def test_which_trainings_have_episodes(algorithm, augmentation, changes, expected):
    config = replaced(tiny_config(), changes)
    assert learns_from_episodes(config, Learner(algorithm, augmentation)) is expected


# What marks rows of episodes in the tests below; logged actions are within [-1, 1].
MARK = 0.125


def episodes(costs: float = 0.0) -> ImaginedEpisodes:
    rng = np.random.default_rng(0)
    obs = rng.uniform(size=(3, 21, SPEC.size)).astype(np.float32)
    action = np.full((20, 2), MARK, np.float32)
    reward, cost = np.full(20, 2.0, np.float32), np.full(20, costs, np.float32)
    rows = [Episode(x, action, reward, cost, False) for x in obs]
    data = jax.tree.map(jnp.asarray, to_dataset(rows))
    return ImaginedEpisodes(data, sampling.sums_to_go(data, data.cost))


def with_episodes(share: float, costs: float = 0.0) -> tuple[Any, Context, Any]:
    """A program without counterfactual rows, its context with episodes, and hyperparameters."""
    changes = {"augmentation.episode_share": share, "augmentation.imagined_share": 0.0}
    config = replaced(tiny_config(), changes | {"train.batch": 64})
    program, context = toy_program("cdt", "proco", config), toy_context(config)
    assert context.world is not None
    world = context.world._replace(episodes=episodes(costs))
    return program, context._replace(world=world), program.augmentation.hyper


def drawn_transitions(share: float, costs: float = 0.0) -> Any:
    program, context, hyper = with_episodes(share, costs)
    settings, augmentation = program.config.train, program.augmentation
    draw = jax.jit(
        lambda context, key: sampling.draw_transitions(
            settings, augmentation, context, hyper, None, key
        )
    )
    return draw(context, jax.random.key(3))


def drawn_segments(share: float) -> Any:
    program, context, hyper = with_episodes(share)
    to_go = loop.logged_sums(program, context)
    spec, augmentation = program.algorithm.segments, program.augmentation
    draw = jax.jit(
        lambda context, key: sampling.draw_segments(
            spec, augmentation, context, hyper, None, to_go, key
        )
    )
    return draw(context, jax.random.key(3))


def of_episodes(batch: Any) -> np.ndarray:
    marked = np.asarray(batch.action == MARK).reshape(len(batch.action), -1)
    return np.logical_and.reduce(marked, axis=1)


def test_rows_of_episodes_take_the_place_of_the_stated_share_of_logged_ones():
    none, some, all_ = (drawn_transitions(share) for share in (0.0, 0.5, 1.0))
    assert not of_episodes(none).any() and of_episodes(all_).all()
    assert 16 <= of_episodes(some).sum() <= 48
    for batch in (none, some, all_):
        assert batch.action.shape[0] == 64 and not batch.imagined.any()
    # The logged rows that stay are the same ones.
    stay = ~of_episodes(some)
    np.testing.assert_array_equal(some.obs[stay], none.obs[stay])
    np.testing.assert_array_equal(some.obs[~stay], all_.obs[~stay])


def test_rows_of_episodes_keep_their_costs_rewards_and_windows():
    batch = drawn_transitions(1.0, costs=1.0)
    np.testing.assert_array_equal(batch.cost, 1.0)
    np.testing.assert_array_equal(batch.reward, 2.0)
    np.testing.assert_array_equal(batch.n_step.violation, batch.n_step.valid)
    np.testing.assert_array_equal(batch.discount, 1.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_segments_of_episodes_have_their_sums_to_go(share):
    batch = drawn_segments(share)
    assert of_episodes(batch).all() == (share == 1.0)
    assert not batch.imagined.any()
    if share:
        left = 20 - np.asarray(batch.timestep)
        mask = np.asarray(batch.mask)
        np.testing.assert_array_equal(np.asarray(batch.return_to_go)[mask], 2.0 * left[mask])
        np.testing.assert_array_equal(np.asarray(batch.cost_to_go)[mask], 0.0)


def test_what_an_algorithm_takes_from_the_logs_as_a_whole_it_takes_from_episodes():
    # The returns of the episodes are 40, whatever the logs' are.
    program, context, _ = with_episodes(0.5)
    training, hyper = loop.make_training(program), loop.make_hyper(program, 1)
    state = training.init(context, hyper, jax.random.split(jax.random.key(0), 1))
    np.testing.assert_allclose(state.algorithm.target_return, [40.0])
    assert context.world is not None
    context = context._replace(world=context.world._replace(episodes=None))
    state = training.init(context, hyper, jax.random.split(jax.random.key(0), 1))
    assert abs(float(state.algorithm.target_return[0]) - 40.0) > 1.0


def test_episodes_are_those_of_the_world_and_none_else():
    program, context, hyper = with_episodes(0.25)
    found = program.augmentation.episodes(hyper, context)
    assert found is not None and float(found[1]) == 0.25
    none = loop.make_program(program.config, program.task, "cdt", "none").augmentation
    assert none.episodes((), context) is None
