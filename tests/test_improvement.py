"""The compiled second phase: one program, members apart, bit-exact resumption, other parts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import (
    ACTIONS,
    FLAT,
    FLAT_TASK,
    drawn,
    same_leaves,
    tiny_config,
    toy_dataset,
    toy_keys,
)

from proco_jax.algorithms import proco
from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.augmentation.learned_world import learned_world
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.config.schema import replaced
from proco_jax.models import bonus, cost, dynamics, dynamics_targets, termination
from proco_jax.models.normalizer import fit_normalizer
from proco_jax.pipeline.policies import Learner, training_inputs
from proco_jax.training import improvement, loop

pytestmark = pytest.mark.usefixtures("unchecked_keys")

CONFIG = tiny_config()
PROGRAM = loop.make_program(CONFIG, FLAT_TASK, "proco", "proco")
IMPROVEMENT = improvement.make_improvement(PROGRAM)
HYPER = improvement.make_hyper(PROGRAM, 2)


@pytest.fixture(scope="module")
def context() -> Context:
    data = toy_dataset()
    normalizer = jax.tree.map(jnp.asarray, fit_normalizer(FLAT, np.asarray(data.obs)))
    settings = CONFIG.dynamics
    like = jax.eval_shape(lambda k: dynamics.init(settings, FLAT, ACTIONS, k), jax.random.key(7))
    targets = jax.tree.map(jnp.asarray, dynamics_targets.fit_targets(FLAT, normalizer, data))
    elites = jnp.arange(settings.elites)
    limit, no = jnp.float32(1e9), jnp.zeros(1)
    model = dynamics.Model(
        drawn(like.params), elites, normalizer, targets, limit, no > 0, no, no > 0
    )
    net = cost.network(CONFIG.cost, CONFIG.encoder, FLAT)
    cost_like = jax.eval_shape(lambda k: cost.init(CONFIG.cost, net, k), jax.random.key(8))
    known = cost.CostModel(drawn(cost_like.params), normalizer, jnp.float32(1.0), jnp.float32(0.0))
    events = jax.eval_shape(lambda: bonus.empty_model(CONFIG.bonus, FLAT, ACTIONS))
    redrawn = jnp.arange(FLAT.size) % 2 == 0
    events = drawn(events)._replace(normalizer=normalizer, size=jnp.float32(2.0), redrawn=redrawn)
    unsafe = jnp.arange(data.size) % 7 == 0
    world = WorldModel(model, known, unsafe, jnp.arange(20), bonus=events)
    return Context(data, normalizer, world)


@pytest.fixture(scope="module")
def trained(context: Context) -> loop.TrainState:
    """Two members as a first phase might leave them, without its compilation."""
    hyper = loop.make_hyper(PROGRAM, 2)
    like = jax.eval_shape(loop.make_training(PROGRAM).init, context, hyper, toy_keys())

    def some(x: Any) -> jax.Array:
        return drawn(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros(x.shape, x.dtype)

    state = jax.tree.map(some, dataclasses.replace(like, key=jnp.zeros(2)))
    algorithm = state.algorithm
    zero = jax.tree.map(jnp.zeros_like, (algorithm.optimizer, algorithm.feasibility.optimizer))
    critics = dataclasses.replace(algorithm.feasibility, optimizer=zero[1])
    algorithm = dataclasses.replace(algorithm, optimizer=zero[0], feasibility=critics)
    return dataclasses.replace(state, algorithm=algorithm, key=toy_keys())


@pytest.fixture(scope="module")
def begin(context: Context, trained: loop.TrainState) -> Any:
    """A fresh copy of the same two members each time; a chunk consumes its states."""
    state = IMPROVEMENT.init(context, HYPER, trained)
    state = jax.device_put(state, jax.devices()[0])
    return lambda: jax.tree.map(jnp.copy, state)


@pytest.fixture(scope="module")
def after(context: Context, begin: Any) -> Any:
    """States and metrics after 2 updates, and states after 5."""
    first, metrics = IMPROVEMENT.chunk(context, HYPER, begin(), 2)
    kept = jax.tree.map(jnp.copy, first)
    second, _ = IMPROVEMENT.chunk(context, HYPER, first, 2)
    third, _ = IMPROVEMENT.chunk(context, HYPER, second, 1)
    return kept, third, metrics


@pytest.mark.slow
def test_chunks_of_any_number_of_updates_are_one_compiled_program(after):
    assert IMPROVEMENT.compiled._cache_size() == 1
    np.testing.assert_array_equal(after[1].imagination.updates, [5, 5])


@pytest.mark.slow
def test_policy_values_critics_and_imagined_rows_move_and_nothing_else(after, begin):
    kept, last, metrics = after
    first = begin()
    for state in (kept, last):
        algorithm, before = state.train.algorithm, first.train.algorithm
        same_leaves((algorithm.params, algorithm.step), (before.params, before.step))
        same_leaves(state.train.step, first.train.step)
    moved = [
        (last.imagination.policy, first.imagination.policy),
        (last.imagination.average, first.imagination.average),
        (last.imagination.values, first.imagination.values),
        (last.train.algorithm.feasibility.params, first.train.algorithm.feasibility.params),
        (last.train.augmentation.data.obs, first.train.augmentation.data.obs),
    ]
    for new, old in moved:
        assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (new, old)), strict=True))
    assert all(np.isfinite(x).all() for x in metrics.values())
    assert {"imagination/reward", "imagination/cost", "feasibility/q_loss"} < set(metrics)


@pytest.mark.slow
def test_the_average_of_the_improved_policies_is_what_the_algorithm_acts_with(after):
    _, last, _ = after
    found = improvement.improved(PROGRAM, last).algorithm
    same_leaves(found.params["policy"], last.imagination.average)
    same_leaves(found.params["v"], last.train.algorithm.params["v"])
    same_leaves(found.feasibility, last.train.algorithm.feasibility)


@pytest.mark.slow
def test_resume_is_bit_exact(tmp_path, context, after, begin):
    kept, last, _ = after
    with Checkpoints(tmp_path / "checkpoints") as saved:
        saved.save(2, kept)
        restored = saved.restore(jax.eval_shape(begin))
    assert restored is not None
    step, state = restored
    assert step == 2
    state, _ = IMPROVEMENT.chunk(context, HYPER, state, 2)
    state, _ = IMPROVEMENT.chunk(context, HYPER, state, 1)
    same_leaves(state, last)


@pytest.mark.slow
def test_a_member_equals_it_alone(context, after, begin):
    hyper, first = (jax.tree.map(lambda x: x[1:], tree) for tree in (HYPER, begin()))
    state, _ = IMPROVEMENT.chunk(context, hyper, first, 2)
    expected = jax.tree.map(lambda x: x[1:], after[0])
    same_leaves(state.imagination.policy, expected.imagination.policy, rtol=1e-4, atol=1e-5)
    same_leaves(state.imagination.imagined, expected.imagination.imagined, rtol=1e-3, atol=1e-3)


def test_members_learn_apart(after):
    policy = jax.tree.leaves(after[0].imagination.policy)
    assert any(np.any(x[0] != x[1]) for x in policy)


@pytest.mark.parametrize(
    ("algorithm", "augmentation", "updates", "expected"),
    [
        ("proco", "proco", 5, True),
        ("proco", "control", 5, True),
        ("proco", "none", 5, False),
        ("proco", "fixed_trajectories", 5, False),
        ("bc", "proco", 5, False),
        ("proco", "proco", 0, False),
        ("toy_algorithm:make", "proco", 5, True),
    ],
)
def test_which_policies_are_improved_and_depend_on_how(
    algorithm, augmentation, updates, expected, monkeypatch
):
    # An algorithm of the user's own is improved if it has an actor, as this one.
    monkeypatch.setattr("toy_algorithm.make", proco.make)

    def program(**changes: Any) -> loop.Program:
        found = {f"proco.imagination.{name}": value for name, value in changes.items()}
        config = replaced(tiny_config(), {"proco.imagination.updates": updates} | found)
        return loop.make_program(config, FLAT_TASK, algorithm, augmentation)

    def inputs(**changes: Any) -> dict[str, Any]:
        return training_inputs(program(**changes), Learner(algorithm, augmentation), {})

    assert improvement.improves(program()) is expected
    first = inputs()
    assert ("improvement" in first["settings"]) is expected
    if algorithm in ("proco", "bc"):
        assert (inputs(epochs=7) != first) is expected
        assert inputs(episodes=7) == first


# Residuals are drawn with it, where there are any.
KEY = jax.random.key(5)


def world_of(context: Context, elites: int = 2) -> Any:
    return learned_world(PROGRAM.dynamics, PROGRAM.cost, context, elites)


def test_the_learned_world_is_that_of_model_cost_network_and_event_model(context):
    data, model = context.data, context.world.dynamics
    obs, action = data.obs[:5], data.action[:5]
    found = world_of(context).step(KEY, obs, action)
    expected = dynamics.predict_mean(PROGRAM.dynamics, model, obs, action)
    np.testing.assert_allclose(found.next_state, expected.next_state, rtol=1e-6)
    low, high = model.targets.usual
    np.testing.assert_allclose(found.reward, expected.reward.clip(low, high), rtol=1e-6)
    np.testing.assert_array_equal(
        found.unsafe, cost.unsafe(PROGRAM.cost, context.world.cost, expected.next_state)
    )
    chance = bonus.probability(FLAT, context.world.bonus, obs, action)
    np.testing.assert_allclose(found.bonus, chance, rtol=1e-6)
    assert not found.lost.any() and world_of(context).bonus == 2.0


@pytest.mark.slow
def test_a_world_is_lost_where_the_elites_disagree_or_a_prediction_is_not_finite(context):
    world = context.world
    obs, action = context.data.obs[:3], context.data.action[:3]
    strict = world._replace(dynamics=world.dynamics._replace(limit=jnp.float32(0.0)))
    assert world_of(context._replace(world=strict)).step(KEY, obs, action).lost.all()
    # A single network never disagrees with itself.
    assert not world_of(context._replace(world=strict), elites=1).step(KEY, obs, action).lost.any()
    params = jax.tree.map(lambda x: x * jnp.nan, world.dynamics.params)
    broken = world._replace(dynamics=world.dynamics._replace(params=params))
    found = world_of(context._replace(world=broken)).step(KEY, obs, action)
    assert found.lost.all()
    np.testing.assert_array_equal(found.next_state, obs)


def test_a_state_that_ends_an_episode_is_not_continued_and_not_unsafe_for_that(context):
    obs, action = context.data.obs[:5], context.data.action[:5]
    always = termination.empty_model(FLAT.size)._replace(threshold=jnp.float32(-jnp.inf))
    world = context.world._replace(cost=None, termination=always)
    found = world_of(context._replace(world=world)).step(KEY, obs, action)
    assert found.lost.all() and not found.unsafe.any()
    never = always._replace(threshold=jnp.float32(jnp.inf))
    world = world._replace(termination=never)
    assert not world_of(context._replace(world=world)).step(KEY, obs, action).lost.any()


def test_without_a_cost_network_leaving_the_logs_is_unsafe(context):
    world = context.world._replace(cost=None)
    strict = world._replace(dynamics=world.dynamics._replace(limit=jnp.float32(0.0)))
    obs, action = context.data.obs[:3], context.data.action[:3]
    assert not world_of(context._replace(world=world)).step(KEY, obs, action).unsafe.any()
    assert world_of(context._replace(world=strict)).step(KEY, obs, action).unsafe.all()


def test_an_accurate_cost_network_decides_instead_of_the_conservative_one(context):
    obs, action = context.data.obs[:5], context.data.action[:5]
    for threshold, unsafe in ((jnp.inf, False), (-jnp.inf, True)):
        other = context.world.cost._replace(threshold=jnp.float32(threshold))
        world = context.world._replace(accurate_cost=other)
        found = world_of(context._replace(world=world)).step(KEY, obs, action)
        np.testing.assert_array_equal(found.unsafe, np.full(5, unsafe))


def test_a_state_is_judged_with_what_the_dynamics_do_not_predict(context):
    obs, action = context.data.obs[:5], context.data.action[:5]
    plain = world_of(context).step(KEY, obs, action).next_state
    added = plain + 1.0
    # A threshold that the scores of one state and the other do not reach alike.
    scores = [cost.score(PROGRAM.cost, context.world.cost, x)[0] for x in (plain, added)]
    judge = context.world.cost._replace(threshold=sum(scores) / 2)
    world = context.world._replace(cost=judge, residuals=jnp.ones((1, FLAT.size)))
    found = world_of(context._replace(world=world)).step(KEY, obs, action)
    np.testing.assert_allclose(found.next_state, added, rtol=1e-5)
    assert found.unsafe[0] == (scores[1] > scores[0]) != cost.unsafe(PROGRAM.cost, judge, plain)[0]


def test_worlds_begin_with_the_states_that_were_prepared(context):
    states = jnp.arange(4.0)[:, None] + jnp.zeros((4, FLAT.size))
    world = context.world._replace(begun=states, begun_risky=states[2:] + 10.0)
    prepared = world_of(context._replace(world=world))
    for share, among in ((0.0, {0.0, 1.0, 2.0, 3.0}), (1.0, {12.0, 13.0})):
        found = np.asarray(prepared.starts(jax.random.key(0), 60, jnp.float32(share)))
        assert set(found[:, 0].tolist()) == among and np.ptp(found, axis=1).max() == 0.0


@pytest.mark.slow
def test_a_share_of_the_starts_is_risky_and_logged_rows_know_what_is_safe(context):
    data, world = context.data, world_of(context)
    risky = np.asarray(data.obs[data.obs_index[:20]])

    def share(of: float) -> float:
        found = np.asarray(world.starts(jax.random.key(0), 400, jnp.float32(of)))
        return np.isin(found[:, 0], risky[:, 0]).mean()

    assert share(1.0) == 1.0
    assert 0.5 < share(0.5) < 0.65 and share(0.0) < 0.15
    obs, action, safe = world.logged(jax.random.key(1), 50)
    logged = np.asarray(data.obs[data.obs_index])
    for o, a, s in zip(np.asarray(obs), np.asarray(action), np.asarray(safe), strict=True):
        (index,) = np.flatnonzero((logged == o).all(axis=1))
        np.testing.assert_array_equal(data.action[index], a)
        assert s == (index % 7 != 0)
