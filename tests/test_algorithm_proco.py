import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, SPEC, TASK, drawn, same_leaves, tiny_config, toy_program
from value_toys import Known

from proco_jax.algorithms import feasibility, proco
from proco_jax.models.networks import log_probability, sample_gaussian
from proco_jax.training.loop import no_previous
from proco_jax.types import NStep, Transition

CONFIG = tiny_config()
HYPER = toy_program("proco", "none").algorithm.hyper
NETS = proco.make_networks(CONFIG, TASK)
LOGGED, IMAGINED, WINDOW = 6, 4, 2


def critics(qh: Any, mean: float = 0.0, vh: Any = None) -> proco.Networks:
    """Networks with a known Q_h, and a Gaussian of that mean and standard deviation 1."""

    def heads(f: Any) -> Known:
        return Known(lambda o, a: jnp.stack([f(o, a)] * 2, axis=-1))

    def gaussian(o: Any) -> Any:
        return jnp.full((*o.shape[:-1], ACTIONS), mean), jnp.zeros((*o.shape[:-1], ACTIONS))

    known: Any = (None, feasibility.Networks(heads(qh), Known(vh)), Known(gaussian))  # pyright: ignore
    return proco.Networks(*known)


def without_params() -> proco.State:
    """The state of networks that have no parameters."""
    empty: Any = {"q": None, "v": None, "policy": None}
    critic = feasibility.FeasibilityState(empty, None, None)  # pyright: ignore
    return proco.State(empty, None, None, critic, jnp.int32(0))  # pyright: ignore


def rows(obs: Any, imagined: Any, weight: Any = 1.0) -> Transition:
    """Safe rows of one step that lead to an observation of zeros."""
    count = len(obs)
    ones, zeros = jnp.ones(count), jnp.zeros(count)
    window = jnp.zeros((count, 1))
    steps = NStep(window, window, window > 0, window == 0, jnp.zeros_like(obs), ones)
    action = jnp.zeros((count, ACTIONS))
    weights, mask = weight * ones, jnp.array(imagined)
    return Transition(obs, action, zeros, zeros, obs, ones, obs, steps, weights, mask)


@pytest.fixture(scope="module")
def state():
    like = jax.eval_shape(lambda k: proco.init(NETS, k), jax.random.key(0))
    state = drawn(like.replace(step=jnp.zeros(())))
    # Adam's moments and its count must be those of the first step.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    critic = dataclasses.replace(state.feasibility, optimizer=zeros.feasibility.optimizer)
    return dataclasses.replace(
        state, optimizer=zeros.optimizer, feasibility=critic, step=jnp.int32(0)
    )


@pytest.fixture(scope="module")
def batch() -> Transition:
    """Logged rows, then imagined ones."""
    count = LOGGED + IMAGINED
    keys = jax.random.split(jax.random.key(1), 4)
    obs = jax.random.normal(keys[0], (3, count, SPEC.size))
    reward = jax.random.normal(keys[2], (count, WINDOW))
    violation = jnp.broadcast_to(jnp.arange(count)[:, None] % 3 == 0, (count, WINDOW))
    ones = jnp.ones(count)
    steps = NStep(
        reward=reward,
        cost=violation.astype(jnp.float32),
        violation=violation,
        valid=jnp.ones((count, WINDOW), bool),
        obs=obs[2],
        discount=ones,
    )
    return Transition(
        obs=obs[0],
        action=jax.random.uniform(keys[1], (count, ACTIONS), minval=-1.0),
        reward=reward[:, 0],
        cost=steps.cost[:, 0],
        next_obs=obs[1],
        discount=ones,
        initial_obs=obs[0],
        n_step=steps,
        weight=ones,
        imagined=jnp.arange(count) >= LOGGED,
    )


@jax.jit
def losses_of(params, state, batch):
    return proco.value_and_policy_loss(HYPER, NETS, params, state, batch)


def test_log_probability_by_hand():
    nets = critics(None, mean=0.5)
    action = jnp.array([[0.5, 0.5], [1.5, 0.5]])
    found = log_probability(nets.policy, None, jnp.zeros((2, SPEC.size)), action)
    np.testing.assert_allclose(found, [0.0, -0.5], atol=1e-5)


@pytest.mark.slow
def test_imagined_rows_count_only_in_infeasible_states():
    vh = jnp.array([-1.0, 1, -1, 1, 1, -1])
    obs = jnp.zeros((6, SPEC.size)).at[:, 0].set(vh)
    obs = obs.at[:, 1].set(jnp.array([-1.0, 0, -1, 0, 0, -2]))
    nets = critics(lambda o, a: o[..., 1], vh=lambda o: o[..., :1])
    batch = rows(obs, [False] * 2 + [True] * 4, jnp.array([1.0] * 4 + [0.0, 1]))
    found = proco.policy_weights(HYPER, nets, without_params(), jnp.zeros(6), batch)
    # Two logged rows: by the reward advantage, by the feasibility advantage. Four imagined rows:
    # feasible, with an unknown reward; infeasible; infeasible of weight 0; feasible.
    outcome = CONFIG.feasibility.discount - 1.0
    away = np.exp(CONFIG.proco.cost_temperature * (1.0 - outcome))
    less = CONFIG.proco.imagined_weight
    expected = np.array([1.0, away, 0.0, less * away, 0.0, 0.0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Imagined rows are known by a mask, not by their position.
    order = np.array([3, 0, 5, 1, 4, 2])
    mixed = jax.tree.map(lambda x: x[order], batch)
    found = proco.policy_weights(HYPER, nets, without_params(), jnp.zeros(6), mixed)
    np.testing.assert_allclose(found, expected[order], rtol=1e-5)


@pytest.mark.slow
def test_a_temperature_does_not_depend_on_the_size_of_rewards():
    nets = critics(lambda o, a: -jnp.ones(o.shape[0]), vh=lambda o: -jnp.ones((o.shape[0], 1)))
    batch = rows(jnp.zeros((5, SPEC.size)), [False] * 5)
    advantage = jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    small, large = (
        proco.policy_weights(HYPER, nets, without_params(), s * advantage, batch)
        for s in (0.01, 3.0)
    )
    np.testing.assert_allclose(small, large, rtol=1e-4)
    assert np.all(np.diff(small) > 0) and float(small[2]) == pytest.approx(1.0)


def test_advantages_of_imagined_rows_do_not_count():
    nets = critics(lambda o, a: -jnp.ones(o.shape[0]), vh=lambda o: -jnp.ones((o.shape[0], 1)))
    batch = rows(jnp.zeros((4, SPEC.size)), [False, False, True, True])
    weights = [
        proco.policy_weights(
            HYPER, nets, without_params(), jnp.array([-0.5, 0.5, imagined, -imagined]), batch
        )
        for imagined in (0.0, 1e6)
    ]
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0][2:], 0.0)


@pytest.mark.slow
def test_value_loss_ignores_imagined_rows(state, batch):
    """The value is fitted to the logged rows; imagined rewards lack goal bonuses."""
    steps = batch.n_step
    changed = batch._replace(
        n_step=steps._replace(reward=jnp.where(batch.imagined[:, None], 99.0, steps.reward))
    )
    before = losses_of(state.params, state, batch)[1]
    after = losses_of(state.params, state, changed)[1]
    np.testing.assert_array_equal(before["proco/v_loss"], after["proco/v_loss"])
    np.testing.assert_array_equal(before["proco/policy_loss"], after["proco/policy_loss"])
    logged = batch._replace(n_step=steps._replace(reward=steps.reward + 1.0))
    assert losses_of(state.params, state, logged)[1]["proco/v_loss"] != before["proco/v_loss"]


def test_each_loss_moves_only_its_own_network(state, batch):
    @jax.jit
    def by_loss(params, target_v, critic_params):
        def gradient(name):
            def of(p, t, c):
                critic = dataclasses.replace(state.feasibility, params=c)
                own = dataclasses.replace(state, target_v=t, feasibility=critic)
                metrics = proco.value_and_policy_loss(HYPER, NETS, p, own, batch)[1]
                return metrics[f"proco/{name}_loss"]

            return jax.grad(of, argnums=(0, 1, 2))(params, target_v, critic_params)

        return {name: gradient(name) for name in ("v", "policy")}

    def moved(tree) -> bool:
        return any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(tree))

    found = by_loss(state.params, state.target_v, state.feasibility.params)
    for name, (grads, target_grads, critic_grads) in found.items():
        for part, tree in grads.items():
            assert moved(tree) == (part == name), f"{name} loss, {part}"
        assert not moved(target_grads) and not moved(critic_grads), name


@pytest.mark.slow
def test_one_update_moves_every_part_and_repeats_exactly(state, batch):
    step = jax.jit(lambda s: proco.update(HYPER, NETS, s, batch))
    new, metrics = step(state)
    same_leaves(step(state)[0], new)
    for part in ("v", "policy"):
        before, after = jax.tree.leaves(state.params[part]), jax.tree.leaves(new.params[part])
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)), part
    for old, now, moved in zip(
        *(jax.tree.leaves(x) for x in (state.target_v, new.params["v"], new.target_v)), strict=True
    ):
        rate = CONFIG.proco.tau
        np.testing.assert_allclose(moved, (1 - rate) * old + rate * now, atol=1e-5)
    assert int(new.step) == 1
    assert all(np.isfinite(float(v)) for v in metrics.values())
    assert {"proco/v_loss", "proco/policy_loss", "feasibility/q_loss"} <= set(metrics)


def test_samples_follow_the_mean_of_the_policy_and_stay_in_range():
    nets = critics(None, mean=0.5)
    found = np.asarray(
        sample_gaussian(nets.policy, None, jnp.zeros(SPEC.size), jax.random.key(2), 5000)
    )
    assert found.shape == (5000, ACTIONS) and np.abs(found).max() <= 1.0
    # Half a standard deviation above the mean lies at the end of the range.
    assert np.median(found) == pytest.approx(0.5, abs=0.05) and (found == 1.0).mean() > 0.25


def test_the_policy_acts_with_one_of_its_samples(state):
    algorithm = toy_program("proco", "none").algorithm
    assert algorithm.sample_actions is not None
    key, obs = jax.random.key(3), jnp.ones(SPEC.size)
    given = (algorithm.initial_carry(), obs, no_previous(ACTIONS))
    action, _ = algorithm.act(key, HYPER, state, *given)
    samples, _ = algorithm.sample_actions(jax.random.clone(key), HYPER, state, *given, 1)
    assert action.shape == (ACTIONS,)
    np.testing.assert_array_equal(action, samples[0])


def test_the_critics_of_the_algorithm_are_those_that_it_trains(state):
    algorithm = toy_program("proco", "none").algorithm
    assert algorithm.critics is not None
    assert algorithm.critics(state) is state.feasibility
