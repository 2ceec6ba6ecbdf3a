import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import (
    ACTIONS,
    SPEC,
    TASK,
    tiny_config,
    toy_context,
    toy_episode,
    toy_normalizer,
    toy_program,
)

from proco_jax.augmentation import buffer, make_augmentation
from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.augmentation.rollouts import RISK, Imagined
from proco_jax.config.schema import replaced
from proco_jax.data.logs import to_dataset
from proco_jax.models import cost, dynamics
from proco_jax.training import loop, sampling
from proco_jax.types import Dataset, Segment, ToGo, Transition

# One program for each number of rows, in place of one for each operation.
GATHER_TRANSITIONS = jax.jit(sampling.gather_transitions, static_argnums=4)
GATHER_SEGMENTS = jax.jit(sampling.gather_segments, static_argnums=4)
SUMS_TO_GO = jax.jit(sampling.sums_to_go)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Two episodes of 20 steps, 21 observations each; the second ends in a true termination."""
    episodes = [toy_episode(0), toy_episode(1, terminated=True)]
    logs = jax.tree.map(jnp.asarray, to_dataset(episodes))
    costs = jnp.zeros(40).at[jnp.array([1, 19, 20, 38])].set(jnp.array([1.0, 2.0, 3.0, 4.0]))
    return dataclasses.replace(logs, cost=costs)


def transitions(data: Dataset, *index: int, n: int = 3) -> Transition:
    normalizer = toy_normalizer(data)
    return GATHER_TRANSITIONS(data, normalizer, data.cost, jnp.array(index), n)


def segments(data: Dataset, *index: int, length: int = 3) -> Segment:
    normalizer = toy_normalizer(data)
    to_go = SUMS_TO_GO(data, data.cost)
    return GATHER_SEGMENTS(data, normalizer, to_go, jnp.array(index), length)


def replay_context() -> Context:
    """Two episodes of 20 steps, every fifth of them called unsafe, and a trajectory from one."""
    logs = to_dataset([toy_episode(0), toy_episode(1)])
    data = jax.tree.map(jnp.asarray, logs)
    normalizer = toy_normalizer(data)
    trajectory = Imagined(
        obs=jnp.ones((1, 3, SPEC.size)),
        action=jnp.ones((1, 2, ACTIONS)),
        reward=jnp.ones((1, 2)),
        unsafe=jnp.array([[False, True]]),
        length=jnp.array([2], jnp.int32),
        source=jnp.array([RISK], jnp.int32),
        origin=jnp.array([7], jnp.int32),
    )
    held = buffer.add(buffer.empty_buffer(1, trajectory), trajectory)
    world = WorldModel(None, None, jnp.arange(40) % 5 == 0, None, held)  # pyright: ignore
    return Context(data, normalizer, world)


def rows(data: Dataset) -> np.ndarray:
    """All normalized observations."""
    return np.asarray(toy_normalizer(data)(data.obs))


def test_transitions_lead_from_an_observation_to_the_next(data):
    found = transitions(data, 0, 19, 20)
    np.testing.assert_allclose(found.obs, rows(data)[[0, 19, 21]], atol=1e-6)
    np.testing.assert_allclose(found.next_obs, rows(data)[[1, 20, 22]], atol=1e-6)
    index = jnp.array([0, 19, 20])
    np.testing.assert_array_equal(found.action, data.action[index])
    np.testing.assert_array_equal(found.reward, data.reward[index])
    np.testing.assert_array_equal(found.cost, [0.0, 2.0, 3.0])
    assert not np.any(found.imagined)
    np.testing.assert_array_equal(found.weight, 1.0)


def test_initial_obs_is_the_first_of_the_episode(data):
    found = transitions(data, 0, 7, 19, 20, 39)
    np.testing.assert_allclose(found.initial_obs, rows(data)[[0, 0, 0, 21, 21]], atol=1e-6)


def test_windows_stop_at_the_end_of_the_episode(data):
    found = transitions(data, 0, 18, 20, 39).n_step
    reward = np.asarray(data.reward)
    expected = [
        [reward[0], reward[1], reward[2]],
        [reward[18], reward[19], 0.0],
        [reward[20], reward[21], reward[22]],
        [reward[39], 0.0, 0.0],
    ]
    np.testing.assert_array_equal(found.reward, expected)
    full, two, one = [True, True, True], [True, True, False], [True, False, False]
    np.testing.assert_array_equal(found.valid, [full, two, full, one])
    np.testing.assert_array_equal(found.cost, [[0, 1, 0], [0, 2, 0], [3, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found.violation, np.asarray(found.cost) > 0)
    np.testing.assert_allclose(found.obs, rows(data)[[3, 20, 24, 41]], atol=1e-6)


def test_discount_is_0_at_a_true_termination_and_1_at_a_time_limit(data):
    found = transitions(data, 0, 18, 19, 36, 37, 38, 39)
    np.testing.assert_array_equal(found.discount, [1, 1, 1, 1, 1, 1, 0])
    # Windows of three steps; those from 37, 38 and 39 reach the termination.
    np.testing.assert_array_equal(found.n_step.discount, [1, 1, 1, 1, 0, 0, 0])


def test_the_first_step_of_a_window_is_the_transition(data):
    found = transitions(data, *range(40))
    np.testing.assert_array_equal(found.n_step.reward[:, 0], found.reward)
    np.testing.assert_array_equal(found.n_step.cost[:, 0], found.cost)
    one = transitions(data, *range(40), n=1)
    np.testing.assert_array_equal(one.n_step.obs, one.next_obs)
    np.testing.assert_array_equal(one.n_step.discount, one.discount)


def test_batched_transitions_equal_each_row(data):
    batched = transitions(data, 3, 19, 38)
    for i, index in enumerate((3, 19, 38)):
        alone = transitions(data, index)
        for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(a[i], b[0])


def test_segments_by_hand(data):
    found = segments(data, 0, 18, 39)
    full, two, one = [True, True, True], [True, True, False], [True, False, False]
    np.testing.assert_array_equal(found.mask, [full, two, one])
    np.testing.assert_array_equal(found.timestep, [[0, 1, 2], [18, 19, 19], [19, 19, 19]])
    at = np.array([[0, 1, 2], [18, 19, 19], [39, 39, 39]])
    np.testing.assert_array_equal(found.action, np.asarray(data.action)[at])
    np.testing.assert_allclose(found.obs, rows(data)[np.asarray(data.obs_index)[at]], atol=1e-6)
    reward = np.asarray(data.reward)
    np.testing.assert_array_equal(found.reward, np.where(found.mask, reward[at], 0.0))
    np.testing.assert_array_equal(found.cost, [[0, 1, 0], [0, 2, 0], [0, 0, 0]])
    # Costs 1 and 2 lie ahead of the first step of the first episode, 2 ahead of its third.
    np.testing.assert_array_equal(found.cost_to_go, [[3, 3, 2], [2, 2, 2], [0, 0, 0]])


def test_return_to_go_sums_to_the_end_of_the_episode_only(data):
    found = segments(data, *range(40), length=1)
    reward = np.asarray(data.reward, np.float64)
    expected = [reward[i : 20 * (i // 20 + 1)].sum() for i in range(40)]
    np.testing.assert_allclose(found.return_to_go[:, 0], expected, rtol=1e-5, atol=1e-5)
    costs = np.asarray(data.cost)
    expected = [costs[i : 20 * (i // 20 + 1)].sum() for i in range(40)]
    np.testing.assert_array_equal(found.cost_to_go[:, 0], expected)


def relabeled(name: str) -> np.ndarray:
    """Costs of the logs by an augmentation; step 0 cost 2, steps 1 and 4 are called unsafe."""
    config = tiny_config()
    context = toy_context(with_world=False)
    logs = dataclasses.replace(context.data, cost=jnp.zeros(context.data.size).at[0].set(2.0))
    unsafe = jnp.zeros(context.data.size, bool).at[jnp.array([1, 4])].set(True)
    # Of the world model, costs depend on these labels alone.
    world = WorldModel(None, None, unsafe, None)  # pyright: ignore
    context = Context(logs, context.normalizer, world)
    dynamics_net = dynamics.network(config.dynamics, SPEC)
    cost_net = cost.network(config.cost, config.encoder, SPEC)
    augmentation = make_augmentation(name, config, dynamics_net, cost_net)
    return np.asarray(augmentation.cost(context))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [2, 0, 0, 0, 0]),
        ("control", [2, 0, 0, 0, 0]),
        ("proco", [2, 1, 0, 0, 1]),
        ("fixed_trajectories", [2, 1, 0, 0, 1]),
    ],
)
def test_relabeled_costs_by_hand(name, expected):
    # A state that the cost network calls unsafe costs 1; the others keep the cost of the logs.
    found = relabeled(name)
    np.testing.assert_array_equal(found[:5], expected)
    np.testing.assert_array_equal(found[5:], 0.0)


def test_relabeled_states_violate_in_every_window_that_holds_them(data):
    normalizer, index = toy_normalizer(data), jnp.arange(3)
    costs = jnp.asarray(relabeled("proco"))[:40]
    found = GATHER_TRANSITIONS(data, normalizer, costs, index, 2).n_step.violation
    np.testing.assert_array_equal(found, [[True, True], [True, False], [False, False]])


def test_an_unknown_augmentation_is_rejected():
    expected = "none, proco, control or fixed_trajectories"
    with pytest.raises(ValueError, match=f"found 'bogus', expected {expected}"):
        loop.make_program(tiny_config(), TASK, "bc", "bogus")


def test_batches_without_augmentation_hold_logged_rows_alone():
    program = toy_program("proco", "none")
    context = toy_context(with_world=False)
    key = jax.random.key(0)
    settings, augmentation = program.config.train, program.augmentation

    @jax.jit
    def draw(context: Context, key: jax.Array) -> Transition:
        return sampling.draw_transitions(settings, augmentation, context, None, None, key)

    found = draw(context, key)
    assert found.obs.shape == (program.config.train.batch, SPEC.size)
    assert not np.any(found.imagined)
    assert found.n_step.valid.shape[1] == program.config.train.n_step


@pytest.mark.parametrize("share", [pytest.param(0.5, marks=pytest.mark.slow), 0.25, 0.0])
def test_imagined_segments_have_the_stated_share(share):
    config = replaced(tiny_config(), {"augmentation.imagined_share": share})
    program, context = toy_program("cdt", "fixed_trajectories", config), replay_context()
    context = context._replace(data=dataclasses.replace(context.data, cost=jnp.zeros(40)))
    cost = program.augmentation.cost(context)
    to_go = SUMS_TO_GO(context.data, cost)
    spec, hyper = program.algorithm.segments, program.augmentation.hyper
    assert spec is not None

    @jax.jit
    def draw(context: Context, to_go: ToGo, key: jax.Array) -> Segment:
        inputs = (spec, program.augmentation, context, hyper, (), to_go, key)
        return sampling.draw_segments(*inputs)

    found = draw(context, to_go, jax.random.key(0))
    joined = np.asarray(found.imagined.any(axis=1))
    logged, count = spec.batch, len(joined)
    assert count == logged + round(logged * share / (1.0 - share))
    np.testing.assert_array_equal(joined, np.arange(count) >= logged)
    # Logged segments carry the generated costs: every fifth step is called unsafe.
    first = np.asarray(found.cost_to_go[:logged, 0])
    remaining = 20 - np.asarray(found.timestep[:logged, 0])
    np.testing.assert_array_equal(first, remaining // 5)
