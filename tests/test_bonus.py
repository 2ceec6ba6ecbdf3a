"""Laws of the event model of rare bonuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, BINS, SPEC, drawn, tiny_config, toy_dataset, toy_normalizer

from proco_jax.config.schema import BonusConfig
from proco_jax.models import bonus, dynamics_targets, object_map
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Dataset

CONFIG = BonusConfig(members=2, steps=400, batch=64, learning_rate=1e-2)
BONUS = 3.0
GOAL = SPEC.slices["goal"]


def with_bonus(data: Dataset) -> Dataset:
    """The same logs, with a bonus wherever the goal's nearest bin is close and action 1 is up."""
    near = np.asarray(data.obs)[np.asarray(data.obs_index)][:, GOAL].max(axis=1)
    reached = (near > 0.97) & (np.asarray(data.action)[:, 1] > 0)
    reward = np.where(reached, 0.1 + BONUS, np.clip(np.asarray(data.reward), -0.1, 0.1))
    return dataclasses.replace(data, reward=jnp.asarray(reward, jnp.float32))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return with_bonus(toy_dataset(40))


@pytest.fixture(scope="module")
def fitted(data):
    normalizer = toy_normalizer(data)
    targets = dynamics_targets.fit_targets(SPEC, normalizer, data)
    # Bonuses are not rare in these logs, and their usual range says so.
    targets = targets._replace(usual=np.array([-0.1, 0.1], np.float32))
    return bonus.fit(CONFIG, SPEC, targets, normalizer, data, jax.random.key(0))


def test_event_weights_restore_the_frequencies_of_the_logs():
    # 2 of 8 rows are drawn from the events; with a share of 1/3, 2 of the others are events too.
    occurs = jnp.array([True] * 4 + [False] * 4)
    weight = bonus.event_weights(occurs, jnp.float32(1 / 3), 8)
    np.testing.assert_allclose(weight[:4].sum(), bonus.EVENT_WEIGHT / 3, rtol=1e-6)
    np.testing.assert_allclose(weight[4:].sum(), 2 / 3, rtol=1e-6)


def test_the_weighted_cross_entropy_by_hand_and_its_gradient():
    logit, occurs = jnp.zeros(2), jnp.array([True, False])
    weight = jnp.array([2.0, 3.0])
    found, grad = jax.value_and_grad(bonus.event_loss)(logit, occurs, weight)
    np.testing.assert_allclose(found, 5 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(grad, [-1.0, 1.5], rtol=1e-6)


def test_the_optimum_of_a_weighted_event_is_its_probability_after_the_shift():
    # With weights 10 p and 1 - p the best logit is log(10 p / (1 - p)).
    p = 0.01
    weight = jnp.array([bonus.EVENT_WEIGHT * p, 1 - p])
    best = jnp.full(2, np.log(bonus.EVENT_WEIGHT * p / (1 - p)))

    def loss(logit: jax.Array) -> jax.Array:
        return bonus.event_loss(jnp.full(2, logit), jnp.array([True, False]), weight)

    np.testing.assert_allclose(jax.grad(loss)(best[0]), 0.0, atol=1e-6)
    shifted = jax.nn.sigmoid(best[0] - jnp.log(bonus.EVENT_WEIGHT))
    np.testing.assert_allclose(shifted, p, rtol=1e-5)


@pytest.mark.slow
def test_events_are_found_and_others_are_not(data, fitted):
    new = with_bonus(toy_dataset(60))
    rows = (new.obs[new.obs_index][-400:], new.action[-400:])
    chance = np.asarray(bonus.probability(SPEC, fitted, *rows))
    occurs = np.asarray(new.reward[-400:]) > 1.0
    assert occurs.sum() > 10
    assert chance[occurs].mean() > 0.6
    assert chance[~occurs].mean() < 0.1


def test_the_size_is_the_median_bonus_and_features_are_standardized_at_events(data, fitted):
    np.testing.assert_allclose(fitted.size, BONUS, rtol=1e-5)
    occurs = np.asarray(data.reward) > 1.0
    near = np.asarray(data.obs[data.obs_index])[occurs][:, GOAL].max(axis=1)
    rings = [f.name for f in SPEC.rings]
    i = rings.index("goal")
    np.testing.assert_allclose(fitted.center[i], np.median(near), rtol=1e-5)
    spread = np.quantile(near, 0.9) - np.quantile(near, 0.1) + 1e-3
    np.testing.assert_allclose(fitted.spread[i], spread, rtol=1e-4)


@pytest.mark.slow
def test_the_least_probability_of_the_ensemble_counts(data, fitted):
    obs, action = data.obs[data.obs_index[:20]], data.action[:20]

    def members(params):
        return bonus.probability(SPEC, fitted._replace(params=params), obs, action)

    each = [members(jax.tree.map(lambda x, i=i: x[i : i + 1], fitted.params)) for i in range(2)]
    found = members(fitted.params)
    np.testing.assert_allclose(found, np.minimum(each[0], each[1]), rtol=1e-5)
    assert np.any(each[0] != each[1])


def test_what_an_event_draws_anew_is_what_jumps_at_it_alone():
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(300, SPEC.size))
    occurs = np.arange(300) % 30 == 0
    # All fields move a little, twice as fast at events; the goal's ring jumps.
    step = 0.1 * rng.normal(size=obs.shape) * np.where(occurs, 2.0, 1.0)[:, None]
    step[np.ix_(occurs, np.arange(SPEC.size)[GOAL])] += 1.0
    expected = np.zeros(SPEC.size, bool)
    expected[GOAL] = True
    found = bonus.redrawn_fields(SPEC, obs, obs + step, occurs)
    np.testing.assert_array_equal(found, expected)
    still = bonus.redrawn_fields(SPEC, obs, obs, occurs)
    assert not still.any()


def test_a_redraw_takes_these_numbers_from_one_logged_aftermath_and_no_others(data, fitted):
    aftermaths = np.asarray(data.obs)[np.asarray(data.obs_index)[np.asarray(data.reward) > 1] + 1]
    kept = np.asarray(fitted.after)
    assert kept.shape == (bonus.KEPT, SPEC.size)
    assert {x.tobytes() for x in kept} <= {x.tobytes() for x in aftermaths}
    model = fitted._replace(redrawn=jnp.zeros(SPEC.size, bool).at[GOAL].set(True))
    nxt = jnp.asarray(np.random.default_rng(1).normal(size=(50, SPEC.size)), jnp.float32)
    found = np.asarray(bonus.redraw(model, jax.random.key(3), nxt))
    others = ~np.asarray(model.redrawn)
    np.testing.assert_array_equal(found[:, others], np.asarray(nxt)[:, others])
    assert {x.tobytes() for x in found[:, GOAL]} <= {x.tobytes() for x in kept[:, GOAL]}
    assert len({x.tobytes() for x in found[:, GOAL]}) > 10


def test_after_a_bonus_the_goal_is_located_anew_and_all_else_goes_on(data, fitted):
    model = fitted._replace(redrawn=jnp.zeros(SPEC.size, bool).at[GOAL].set(True))
    obs = jnp.asarray(np.random.default_rng(2).uniform(0.1, 0.9, (6, SPEC.size)), jnp.float32)
    state, occurs = object_map.begin(SPEC, obs), jnp.arange(6) % 2 == 0
    key = jax.random.key(4)
    again = jax.random.clone(key)
    found = np.asarray(bonus.after_bonus(SPEC, model, again, state, occurs))
    np.testing.assert_array_equal(found[1::2], state[1::2])
    draw_key, _ = jax.random.split(key)
    drawn = np.where(np.asarray(occurs)[:, None], bonus.redraw(model, draw_key, obs), obs)
    np.testing.assert_array_equal(found[:, : SPEC.size], drawn)
    located = np.asarray(object_map.begin(SPEC, jnp.asarray(drawn)))
    ring = next(i for i, f in enumerate(SPEC.rings) if SPEC.slices[f.name] == GOAL)
    start = SPEC.size + 2 * sum(f.size for f in SPEC.rings[:ring])
    own = np.zeros(state.shape[1], bool)
    own[start : start + 2 * SPEC.rings[ring].size] = True
    np.testing.assert_array_equal(found[::2][:, own], located[::2][:, own])
    others = ~own & (np.arange(state.shape[1]) >= SPEC.size)
    np.testing.assert_array_equal(found[:, others], np.asarray(state)[:, others])


def test_a_state_that_knows_other_places_of_the_goal_draws_from_them(fitted):
    model = fitted._replace(redrawn=jnp.zeros(SPEC.size, bool).at[GOAL].set(True))
    obs = jnp.asarray(np.random.default_rng(2).uniform(0.1, 0.9, (6, SPEC.size)), jnp.float32)
    ring = next(i for i, f in enumerate(SPEC.rings) if SPEC.slices[f.name] == GOAL)
    places = np.full((6, len(SPEC.rings), object_map.SPARE, 2), object_map.NOWHERE, np.float32)
    places[:, ring, 0] = [1.2, -0.7]
    state = object_map.with_elsewhere(SPEC, object_map.begin(SPEC, obs), jnp.asarray(places))
    occurs = jnp.arange(6) % 2 == 0
    found = bonus.after_bonus(SPEC, model, jax.random.key(4), state, occurs)
    np.testing.assert_array_equal(found[1::2], state[1::2])
    distance = np.asarray(object_map.nearest(SPEC, found))[::2]
    before = np.asarray(object_map.nearest(SPEC, state))[::2]
    np.testing.assert_allclose(distance[:, ring], np.hypot(1.2, 0.7), rtol=1e-5)
    others = np.arange(len(SPEC.rings)) != ring
    np.testing.assert_array_equal(distance[:, others], before[:, others])


@pytest.mark.slow
def test_logs_without_bonus_have_probability_0_and_fit_nothing():
    data = toy_dataset(3)
    normalizer = toy_normalizer(data)
    targets = dynamics_targets.fit_targets(SPEC, normalizer, data)
    found = bonus.fit(CONFIG, SPEC, targets, normalizer, data, jax.random.key(0))
    empty = bonus.empty_model(CONFIG, SPEC, ACTIONS)
    for a, b in zip(*map(jax.tree.leaves, (found.params, empty.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not bonus.probability(SPEC, found, data.obs[:9], jnp.ones((9, ACTIONS))).any()


def test_empty_model_has_the_structure_and_shapes_of_a_fitted_one(fitted):
    like = jax.eval_shape(lambda: bonus.empty_model(CONFIG, SPEC, ACTIONS))
    assert jax.tree.structure(like) == jax.tree.structure(fitted)
    for a, b in zip(jax.tree.leaves(like), jax.tree.leaves(fitted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.slow
def test_an_observation_without_rings_has_no_empty_array():
    flat = ObservationSpec((Field("numbers", 2 * BINS, "flat", "", "All numbers."),))
    config = dataclasses.replace(tiny_config().bonus, members=1)
    model = drawn(bonus.empty_model(config, flat, ACTIONS))
    assert all(x.size for x in jax.tree.leaves(model))
    found = bonus.probability(flat, model, jnp.ones((3, 2 * BINS)), jnp.zeros((3, ACTIONS)))
    assert found.shape == (3,) and np.isfinite(found).all()
