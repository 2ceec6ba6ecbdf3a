import dataclasses
import functools
from typing import Any

import ensemble_toys
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import (
    ACTIONS,
    SPEC,
    drawn,
    tiny_config,
    toy_dataset,
    toy_model,
    toy_normalizer,
)

from proco_jax.data.logs import to_dataset
from proco_jax.models import dynamics, dynamics_targets, losses, object_map
from proco_jax.models.dynamics import Model
from proco_jax.models.dynamics_targets import Targets
from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import Field, ObservationSpec
from proco_jax.training import loop
from proco_jax.types import Episode

CONFIG = tiny_config().dynamics
NET = dynamics.network(CONFIG, SPEC)
FLAT = ObservationSpec((Field("x", 2, "flat", "m", "Two numbers."),))


class Moves:
    """Each member predicts its parameter for all changes, with log variance 0."""

    spec = FLAT

    def apply(self, params: Any, obs: jax.Array, action: jax.Array) -> Any:
        mean = params * jnp.ones((*obs.shape[:-1], 2 + dynamics_targets.REWARDS))
        return mean, jnp.zeros_like(mean), jnp.zeros_like(mean), jnp.zeros((*obs.shape[:-1], 3))


MOVES: Any = Moves()


def moves(*members: float, elites: tuple[int, ...] = (0, 1), size=(1.0, 10.0, 2.0, 0.5)) -> Model:
    shift, usual = jnp.array([0.5, 0.0, 1.0, 0.0]), jnp.array([-1.0, 5.0])
    targets = Targets(shift, jnp.array(size), jnp.ones(4), jnp.ones(0), usual)
    normalizer = Normalizer(jnp.zeros(2), jnp.ones(2))
    no, limit = jnp.zeros(1), jnp.float32(jnp.inf)
    own = (jnp.array(members), jnp.array(elites), normalizer, targets, limit)
    return Model(*own, no > 0, no, no > 0)


@pytest.fixture(scope="module")
def data():
    return toy_dataset()


@pytest.fixture(scope="module")
def normalizer(data):
    return toy_normalizer(data)


@pytest.fixture(scope="module")
def targets(data, normalizer):
    return jax.tree.map(jnp.asarray, dynamics_targets.fit_targets(SPEC, normalizer, data))


@pytest.fixture(scope="module")
def state():
    """A fresh ensemble, drawn without a compilation."""
    like = jax.eval_shape(
        lambda k: dynamics.init(CONFIG, SPEC, ACTIONS, k), jax.random.key(0)
    ).replace(key=jnp.zeros(()))
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    params = jax.tree.map(lambda x: 0.5 * x, drawn(like.params))
    return dataclasses.replace(
        empty,
        params=params,
        best_params=params,
        best_error=jnp.full(CONFIG.members, jnp.inf),
        key=jax.random.key(0),
    )


@pytest.fixture(scope="module")
def step(data, normalizer, targets):
    return jax.jit(functools.partial(ensemble_toys.update, CONFIG, NET, targets, normalizer, data))


def test_prediction_by_hand():
    obs = jnp.array([[1.0, 2.0]])
    found = dynamics.predict(MOVES, moves(1.0, 2.0), jnp.int32(1), obs, jnp.zeros((1, 1)))
    # Change 2 in units of the sizes 1, 10, 2 and 0.5, plus the shifts 0.5, 0, 1 and 0.
    np.testing.assert_allclose(found.next_obs, [[3.5, 22.0]])
    np.testing.assert_allclose((found.reward, found.bonus), [[5.0], [1.0]])
    np.testing.assert_allclose(found.deviation, [[1.0, 10.0, 2.0, 0.5]])


def test_what_follows_from_the_motion_is_added_in_units_of_the_observation():
    class Turns(Moves):
        def apply(self, params: Any, obs: jax.Array, action: jax.Array) -> Any:
            mean, log_variance, _, motion = super().apply(params, obs, action)
            return mean, log_variance, jnp.array([0.3, 0.3, 0.0, 0.0]), motion

    obs, action = jnp.array([[1.0, 2.0]]), jnp.zeros((1, 1))
    net: Any = Turns()
    still = dynamics.predict(MOVES, moves(0.5), jnp.int32(0), obs, action)
    turned = dynamics.predict(net, moves(0.5), jnp.int32(0), obs, action)
    np.testing.assert_allclose(turned.next_obs, still.next_obs + 0.3, rtol=1e-6)
    np.testing.assert_allclose(turned.reward, still.reward)


def test_mean_and_disagreement_by_hand():
    # Standardized predictions 1 and 3 in both dimensions: deviation 1.
    found = dynamics.predict_mean(MOVES, moves(1.0, 3.0), jnp.zeros((4, 2)), jnp.zeros((4, 1)))
    np.testing.assert_allclose(found.disagreement, 1.0, rtol=1e-5)
    # 2 in units of the sizes 1, 10 and 2, plus the shifts 0.5, 0 and 1.
    np.testing.assert_allclose(found.next_state, np.tile([2.5, 20.0], (4, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.reward, 5.0, rtol=1e-5)


def test_disagreement_of_equal_members_is_zero_and_ignores_those_not_elite():
    model = moves(1.0, 5.0, 1.0, elites=(0, 2))
    found = dynamics.predict_mean(MOVES, model, jnp.zeros((4, 2)), jnp.zeros((4, 1)))
    np.testing.assert_allclose(found.disagreement, 0.0, atol=1e-6)


def test_standardized_targets_by_hand():
    data = toy_dataset(1)
    flat = dataclasses.replace(
        data, obs=jnp.array([[0.0, 0.0], [2.5, 20.0]]), obs_index=jnp.array([0])
    )
    flat = dataclasses.replace(flat, reward=jnp.array([7.0]), action=jnp.zeros((1, 1)))
    model = moves(0.0, 0.0)
    _, _, target = dynamics_targets.standardized(
        model.targets, model.normalizer, flat, jnp.array([0])
    )
    # Of a reward of 7, 5 are usual.
    np.testing.assert_allclose(target, [[2.0, 2.0, 2.0, 4.0]])


def test_a_rare_bonus_does_not_change_the_size_of_usual_rewards(data, normalizer):
    small = np.linspace(-0.01, 0.01, data.size).astype(np.float32)
    bonus = np.where(np.arange(data.size) == 7, 1.0, small).astype(np.float32)
    found = [
        dynamics_targets.fit_targets(SPEC, normalizer, dataclasses.replace(data, reward=r))
        for r in (small, bonus)
    ]
    np.testing.assert_allclose(found[1].size[-2], found[0].size[-2], rtol=0.05)
    assert found[1].size[-1] > 5 * found[1].size[-2] and found[1].varies[-1]
    assert found[1].usual[1] < 0.02


def test_rings_share_one_size_without_shift_and_constants_do_not_vary(targets):
    for f in SPEC.rings:
        where = SPEC.slices[f.name]
        assert len(np.unique(targets.size[where])) == 1
        np.testing.assert_array_equal(targets.shift[where], 0.0)
    battery = SPEC.slices["battery"]
    np.testing.assert_array_equal(targets.varies[battery], 0.0)
    np.testing.assert_array_equal(targets.size[battery], 1.0)
    assert targets.varies[-dynamics_targets.REWARDS] == 1.0


def test_only_rings_are_clipped():
    obs = jnp.array([[-3.0, 3.0]]) @ jnp.ones((2, SPEC.size)) + jnp.linspace(-5, 5, SPEC.size)
    clipped = np.asarray(dynamics.clip_rings(SPEC, obs))
    for f in SPEC.fields:
        where = SPEC.slices[f.name]
        expected = np.clip(obs[:, where], 0, 1) if f.kind == "ring" else obs[:, where]
        np.testing.assert_array_equal(clipped[:, where], expected)


def test_predictions_keep_constants_and_stay_in_the_rings(data, normalizer):
    model = toy_model(tiny_config(), data, normalizer)
    obs, action = object_map.begin(SPEC, data.obs[:8]), data.action[:8]
    predict = jax.jit(functools.partial(dynamics.predict_elites, NET))
    found = predict(model, obs, action)
    next_obs = found.next_obs
    assert next_obs.shape == (2, 8, SPEC.size) and found.reward.shape == (2, 8)
    np.testing.assert_array_equal(next_obs[..., SPEC.slices["battery"]], 12.0)
    for f in SPEC.rings:
        ring = np.asarray(next_obs[..., SPEC.slices[f.name]])
        assert ring.min() >= 0.0 and ring.max() <= 1.0
    one = jax.jit(functools.partial(dynamics.predict, NET))
    for member in range(2):
        for row in (0, 5):
            alone = one(model, jnp.int32(member), obs[row], action[row])
            np.testing.assert_allclose(next_obs[member, row], alone.next_obs, atol=1e-4)
            np.testing.assert_allclose(found.reward[member, row], alone.reward, atol=1e-4)
            np.testing.assert_allclose(found.bonus[member, row], alone.bonus, atol=1e-4)


def test_bootstrap_draws_stay_in_range_and_differ_between_members():
    draw = jnp.broadcast_to(jnp.arange(1000), (3, 1000))
    for size in (1, 7, 1000):
        found = np.asarray(dynamics._bootstrap(jax.random.key(1), draw % size, size))
        assert found.min() >= 0 and found.max() < size
    assert np.mean(found[0] == found[1]) < 0.05 and np.mean(found[1] == found[2]) < 0.05


def test_bootstrap_is_a_fixed_resample_that_misses_a_third_of_the_logs():
    draw = jnp.broadcast_to(jnp.arange(5000), (2, 5000))
    key = jax.random.key(2)
    found = np.asarray(dynamics._bootstrap(key, draw, 5000))
    again = np.asarray(dynamics._bootstrap(jax.random.clone(key), draw[:, ::-1], 5000))
    np.testing.assert_array_equal(found, again[:, ::-1])
    seen = [len(np.unique(row)) / 5000 for row in found]
    np.testing.assert_allclose(seen, 1 - np.exp(-1), atol=0.02)


@pytest.mark.slow
def test_learning_rate_is_zero_at_the_last_step(state, step):
    def moved(done: int) -> bool:
        counted = jax.tree.map(
            lambda x: jnp.full_like(x, done) if x.dtype == jnp.int32 else x, state.optimizer
        )
        new, _ = step(dataclasses.replace(state, optimizer=counted))
        before, after = jax.tree.leaves(state.params), jax.tree.leaves(new.params)
        return any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    assert moved(0) and not moved(CONFIG.steps)


def test_holdout_keeps_the_best_parameters_of_each_member(data):
    flat = dataclasses.replace(
        data,
        obs=jnp.zeros((3, 2)),
        obs_index=jnp.arange(2),
        action=jnp.zeros((2, 1)),
        reward=jnp.zeros(2),
    )
    targets = Targets(jnp.zeros(4), jnp.ones(4), jnp.ones(4), jnp.ones(0), jnp.array([-1.0, 1.0]))
    state = dynamics.DynamicsState(
        params=jnp.array([1.0, 2.0]),
        optimizer=(),
        best_params=jnp.array([7.0, 8.0]),
        best_error=jnp.array([5.0, 3.0]),
        step=jnp.int32(0),
        key=jax.random.key(0),
    )
    normalizer = moves(0.0).normalizer
    new, metrics = ensemble_toys.validate(MOVES, targets, normalizer, flat, state)
    # Errors 1 and 4: the first member improved from 5, the second not from 3.
    np.testing.assert_array_equal(new.best_params, [1.0, 8.0])
    np.testing.assert_array_equal(new.best_error, [1.0, 3.0])
    assert float(metrics["dynamics/holdout_mse"]) == 2.5


@pytest.mark.slow
def test_elites_are_the_best_on_the_holdout_and_the_limit_is_a_quantile_of_theirs(data):
    flat = dataclasses.replace(data, obs=jnp.zeros((len(data.obs), 2)))
    given = moves(1.0, 50.0, 3.0)
    state = dynamics.DynamicsState(
        params=jnp.zeros(3),
        optimizer=(),
        best_params=given.params,
        best_error=jnp.array([0.2, 0.9, 0.1]),
        step=jnp.int32(0),
        key=jax.random.key(0),
    )
    logs = (given.targets, given.normalizer, flat, flat)
    fitted = dynamics.model(CONFIG, MOVES, *logs, state, (0.5, 3.0))
    np.testing.assert_array_equal(fitted.elites, [2, 0])
    # Their disagreement is 1 everywhere.
    np.testing.assert_allclose(fitted.limit, 3.0, rtol=1e-5)


def test_error_of_the_nearest_object_is_zero_for_the_truth_only(targets):
    obs = jax.random.uniform(jax.random.key(3), (20, SPEC.size))
    target = jax.random.normal(jax.random.key(4), (20, SPEC.size + dynamics_targets.REWARDS))
    assert float(dynamics._nearest_loss(SPEC, targets, obs, target, target)) == 0.0
    wrong = target.at[:, SPEC.slices["goal"]].add(1.0)
    assert float(dynamics._nearest_loss(SPEC, targets, obs, wrong, target)) > 0.0


def test_error_of_the_nearest_object_by_hand(targets):
    where, sizes = SPEC.slices["goal"], targets.nearest
    obs = jnp.zeros((1, SPEC.size)).at[0, where.start].set(0.5)
    target = jnp.zeros((1, SPEC.size + dynamics_targets.REWARDS))
    ring = [f.name for f in SPEC.rings].index("goal")
    # Off by two sizes in the largest bin: 4, averaged over two rings. A smaller bin does not count.
    off = 2.0 * sizes[ring] / targets.size[where.start]
    for place, expected in ((where.start, 2.0), (where.start + 1, 0.0)):
        guess = target.at[0, place].set(-off)
        found = dynamics._nearest_loss(SPEC, targets, obs, guess, target)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_rare_jumps_do_not_increase_the_size_of_a_rings_changes(data, normalizer):
    usual = dynamics_targets.fit_targets(SPEC, normalizer, data)
    where = SPEC.slices["goal"]
    obs = np.array(data.obs)
    still = np.repeat(obs[:1], len(obs), axis=0)
    steady = still + 1e-3 * np.arange(len(obs))[:, None] % 0.1
    jumps = steady.copy()
    jumps[5, where] += 5.0
    sizes = [
        dynamics_targets.fit_targets(
            SPEC, normalizer, dataclasses.replace(data, obs=x.astype(np.float32))
        )
        for x in (steady, jumps)
    ]
    np.testing.assert_allclose(sizes[1].nearest, sizes[0].nearest, rtol=0.5)
    assert usual.nearest.shape == (len(SPEC.rings),)


def test_a_fresh_ensemble_has_the_types_of_a_fitted_one(data, normalizer, targets):
    def fresh() -> Any:
        return dynamics.init(CONFIG, SPEC, ACTIONS, jax.random.key(0))

    def fitted() -> Any:
        state, _ = ensemble_toys.update(CONFIG, NET, targets, normalizer, data, fresh())
        return ensemble_toys.validate(NET, targets, normalizer, data, state)[0]

    # Otherwise the fit would be compiled twice.
    before, after = (jax.tree.leaves(jax.eval_shape(f)) for f in (fresh, fitted))
    assert [(x.shape, x.dtype, x.weak_type) for x in before] == [
        (x.shape, x.dtype, x.weak_type) for x in after
    ]


@pytest.mark.slow
def test_ensemble_fits_a_small_world(data, normalizer, targets, state):
    held = toy_dataset(3)
    config = dataclasses.replace(
        CONFIG, holdout_every=200, learning_rate=5e-3, nearest_weight=0.0, members=3
    )
    chunk = loop.make_dynamics_chunk(dataclasses.replace(tiny_config(), dynamics=config), NET, 200)
    # The chunk consumes its state.
    first, metrics = chunk(targets, normalizer, data, held, jax.tree.map(jnp.copy, state))
    # 1 is the error of the mean change as the prediction.
    assert np.all(np.asarray(first.best_error) < 0.6)
    assert int(first.step) == 200
    assert {"dynamics/loss", "dynamics/holdout_mse"} == set(metrics)


def test_empty_model_has_the_structure_and_shapes_of_a_fitted_one(data, normalizer, targets, state):
    def fitted() -> Model:
        return dynamics.model(CONFIG, NET, targets, normalizer, data, data, state, (0.9, 2.0))

    def plain(model: Model):
        return jax.tree.map(lambda x: (x.shape, x.dtype), model)

    empty = jax.eval_shape(lambda: dynamics.empty_model(CONFIG, SPEC, ACTIONS))
    assert plain(empty) == plain(jax.eval_shape(fitted))


def windows_of(reward: list[float], horizon: int, usual=(-1.0, 1.0), steps: int = 4):
    """Windows from the first and the last transition of an episode of the plane FLAT."""
    config = dataclasses.replace(
        CONFIG, trajectory=dataclasses.replace(CONFIG.trajectory, horizon=horizon)
    )
    obs = np.arange(2.0 * (steps + 1)).reshape(-1, 2).astype(np.float32)
    action = np.zeros((steps, ACTIONS), np.float32)
    episode = Episode(obs, action, np.array(reward, np.float32), np.zeros(steps, np.float32), False)
    dataset = jax.tree.map(jnp.asarray, to_dataset([episode]))
    targets = Targets(
        jnp.zeros(4), jnp.array([1.0, 2.0, 1.0, 1.0]), jnp.ones(4), jnp.ones(1), jnp.array(usual)
    )
    index = jnp.array([0, steps - 1])
    return config, targets, dynamics.take_windows(targets, dataset, index, horizon)


def test_windows_end_with_the_episode_and_before_the_observation_of_a_bonus():
    _, _, windows = windows_of([0.0, 0.5, 30.0, 0.5], horizon=4)
    np.testing.assert_array_equal(windows.fits_obs[0], [True, True, False, False])
    # The bonus itself is predicted, what comes after it is not.
    np.testing.assert_array_equal(windows.fits_reward[0], [True, True, True, False])
    np.testing.assert_array_equal(windows.fits_obs[1], [True, False, False, False])
    np.testing.assert_array_equal(windows.obs[0, 1], [4.0, 5.0])
    np.testing.assert_array_equal(windows.reward[0, 2], [1.0, 29.0])


def test_trajectory_loss_of_a_hand_worked_prediction():
    config, targets, windows = windows_of([0.0] * 4, horizon=2)
    settings = dataclasses.replace(config.trajectory, reward_weight=0.5)
    config = dataclasses.replace(config, trajectory=settings)
    normalizer = Normalizer(jnp.zeros(2), jnp.full(2, 0.1))
    # Both windows exist for 1 step, one of them for 2. The prediction moves by (1, 2) where the
    # logs move by (2, 2), and says 1 for both parts of the reward, which are 0.
    # Step 1: mean of (1 / 1)^2 and 0. Step 2: mean of (2 / sqrt 2)^2 and 0, twice the size.
    robust = losses.robust_square(jnp.array([1.0, 2.0 / np.sqrt(2.0)]), dynamics_targets.ROBUST)
    of_obs = 2 * robust[0] / 2 + robust[1] / 2
    of_reward = 3 * 0.5 * 2 * losses.robust_square(jnp.ones(()), dynamics_targets.ROBUST)
    found = dynamics.trajectory_loss(config, MOVES, targets, normalizer, jnp.float32(1.0), windows)
    np.testing.assert_allclose(found, (of_obs + of_reward) / 3, rtol=1e-6)


def test_the_unit_of_an_error_does_not_exceed_the_range_in_the_logs():
    config, targets, windows = windows_of([0.0] * 4, horizon=4)
    config = dataclasses.replace(
        config, trajectory=dataclasses.replace(config.trajectory, reward_weight=0.0)
    )
    # Changes of size 1, in logs with deviations of 1.5 and 9: the unit of the first one is 1,
    # sqrt 2, and 1.5 from then on. It is off by h after h steps, the second one never.
    normalizer = Normalizer(jnp.zeros(2), 1.0 / jnp.array([1.5, 9.0]))
    unit = jnp.array([1.0, 1.0, np.sqrt(2.0), 1.5, 1.5])
    off = jnp.array([1.0, 1.0, 2.0, 3.0, 4.0])
    robust = losses.robust_square(off / unit, dynamics_targets.ROBUST)
    targets = targets._replace(size=jnp.array([1.0, 2.0, 1.0, 1.0]))
    found = dynamics.trajectory_loss(config, MOVES, targets, normalizer, jnp.float32(1.0), windows)
    np.testing.assert_allclose(found, jnp.sum(robust) / 2 / 5, rtol=1e-6)


def test_fields_that_vary_weigh_the_same_and_so_do_their_numbers():
    varies = np.ones(SPEC.size, np.float32)
    first, second = SPEC.fields[0], SPEC.fields[1]
    varies[SPEC.slices[first.name]] = 0.0
    varies[SPEC.slices[second.name].start] = 0.0
    found = np.asarray(dynamics.field_weights(SPEC, jnp.asarray(varies)))
    np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(found[varies == 0], 0.0)
    for f in SPEC.fields[1:]:
        part = found[SPEC.slices[f.name]]
        np.testing.assert_allclose(part.sum(), 1 / (len(SPEC.fields) - 1), rtol=1e-6)
        np.testing.assert_allclose(part[part > 0], part.max(), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True])
def test_residuals_are_what_the_prediction_misses_of_what_is_learned(
    data, normalizer, targets, state, fixed
):
    """What is computed from the motion, rings and fixed vectors, is left out."""
    fitted = functools.partial(dynamics.model, CONFIG, NET, limit=(0.9, 2.0))
    model = jax.jit(fitted)(targets, normalizer, data, data, state=state)
    model = model._replace(fixed=jnp.full(len(SPEC.vectors), fixed))
    found = np.asarray(dynamics.residuals(NET, model, data, 1, 7))
    rows = np.linspace(0, data.size - 1, 7).astype(int)
    at = np.asarray(data.obs_index)[rows]
    predict = jax.jit(lambda model, o, a: dynamics.predict_mean(NET, model, o, a, 1).next_state)
    begun = object_map.begin(SPEC, data.obs[at])
    predicted = predict(model, begun, data.action[rows])[:, : SPEC.size]
    left_out = np.concatenate([np.full(f.size, f.kind == "ring") for f in SPEC.fields])
    left_out[SPEC.slices["velocity"].start + np.arange(2)] = fixed
    expected = np.where(left_out, 0.0, np.asarray(data.obs)[at + 1] - np.asarray(predicted))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.any(axis=0), np.where(left_out, False, normalizer.varies))


def test_a_perfect_prediction_has_no_trajectory_loss_and_others_have_a_gradient():
    config, targets, windows = windows_of([1.0] * 4, horizon=3, usual=(-2.0, 2.0))
    targets = targets._replace(size=jnp.array([2.0, 2.0, 1.0, 1.0]))
    windows = windows._replace(reward=jnp.ones_like(windows.reward))
    normalizer = Normalizer(jnp.zeros(2), jnp.ones(2))

    def loss(params: Any) -> jax.Array:
        return dynamics.trajectory_loss(config, MOVES, targets, normalizer, params, windows)

    both = jax.jit(jax.value_and_grad(loss))
    assert both(jnp.float32(1.0))[0] == 0
    assert both(jnp.float32(1.5))[1] > 0 > both(jnp.float32(0.5))[1]


@pytest.mark.slow
def test_the_fit_to_trajectories_lowers_the_open_loop_error(data, normalizer, targets, state):
    held = toy_dataset(3)
    settings = dataclasses.replace(CONFIG.trajectory, steps=100, horizon=4, batch=16)
    config = dataclasses.replace(CONFIG, trajectory=settings)
    whole = dataclasses.replace(tiny_config(), dynamics=config)
    fitted = dynamics.begin_trajectory_fit(config, state)
    index = jnp.arange(held.size)
    windows = dynamics.take_windows(targets, held, index, config.trajectory.horizon)

    @jax.jit
    def error(params: Any) -> jax.Array:
        own = jax.tree.map(lambda x: x[0], params)
        return dynamics.trajectory_loss(config, NET, targets, normalizer, own, windows)

    before = error(fitted.params)
    chunk = loop.make_dynamics_chunk(whole, NET, 100, trajectories=True)
    after, metrics = chunk(targets, normalizer, data, held, jax.tree.map(jnp.copy, fitted))
    assert error(after.best_params) < 0.8 * before
    assert {"dynamics/trajectory_loss", "dynamics/holdout_trajectory_loss"} == set(metrics)
    # A second chunk must not be compiled anew.
    like = [
        [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(jax.eval_shape(lambda s=s: s))]
        for s in (fitted, after)
    ]
    assert like[0] == like[1]


@pytest.mark.parametrize("share", [0.0, 0.004, 0.01, 0.03])
def test_a_bonus_is_told_from_usual_rewards_however_often_it_occurs(share):
    rng = np.random.default_rng(0)
    reward = rng.normal(0.005, 0.01, 20_000)
    bonus = rng.random(20_000) < share
    reward[bonus] += 1.0
    low, high = dynamics_targets.usual_range(reward)
    np.testing.assert_allclose([low, high], [-0.018, 0.028], atol=0.002)
    nothing = jnp.zeros(1)
    usual = jnp.array([low, high], jnp.float32)
    targets = Targets(nothing, nothing, nothing, nothing, usual)
    found = dynamics_targets.is_bonus(targets, jnp.asarray(reward, jnp.float32))
    np.testing.assert_array_equal(found, bonus)


def test_of_rewards_that_are_mostly_nothing_the_others_are_bonuses():
    reward = np.where(np.arange(1000) % 40 == 0, 2.0, 0.0)
    np.testing.assert_array_equal(dynamics_targets.usual_range(reward), 0.0)
    spread = np.random.default_rng(1).exponential(1.0, 5000)
    np.testing.assert_allclose(
        dynamics_targets.usual_range(spread), np.quantile(spread, [0.01, 0.99])
    )
