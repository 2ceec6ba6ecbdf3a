import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, SPEC, drawn, same_leaves, toy_parts

from proco_jax.algorithms import feasibility, proco
from proco_jax.types import Ahead, Transition

PARTS = toy_parts()
CONFIG, FEASIBILITY, NETS = PARTS.config.agent, PARTS.config.feasibility, PARTS.agent
LOGGED, IMAGINED = 6, 4


class Known:
    """A network that is a plain function of what it is given."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def apply(self, params: Any, *inputs: Any) -> Any:
        return self.function(*inputs)


def critics(qh: Any, mean: float = 0.0, vh: Any = None) -> proco.Networks:
    """Networks with a known Q_h, and a Gaussian of that mean and deviation 1."""

    def heads(f: Any) -> Known:
        return Known(lambda o, a: jnp.stack([f(o, a)] * 2, axis=-1))

    def gaussian(o: Any) -> Any:
        return jnp.full((*o.shape[:-1], ACTIONS), mean), jnp.zeros((*o.shape[:-1], ACTIONS))

    known: Any = (None, feasibility.Networks(heads(qh), Known(vh)), Known(gaussian))  # pyright: ignore
    return proco.Networks(*known)


@pytest.fixture(scope="module")
def state():
    like = jax.eval_shape(lambda k: proco.init(CONFIG, NETS, k), jax.random.key(0))
    state = drawn(like)
    # Adam's moments and its count must be those of a beginning.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    critic = dataclasses.replace(state.feasibility, optimizer=zeros.feasibility.optimizer)
    return dataclasses.replace(state, optimizer=zeros.optimizer, feasibility=critic)


@pytest.fixture(scope="module")
def batches():
    keys = jax.random.split(jax.random.key(1), 5)
    obs = jax.random.normal(keys[0], (2, LOGGED, SPEC.size))
    action = jax.random.uniform(keys[1], (LOGGED, ACTIONS), minval=-1.0)
    reward = jax.random.normal(keys[2], (LOGGED,))
    ones = jnp.ones(LOGGED)
    ahead = Ahead(reward, 0.9 * ones, obs[1])
    logged = Transition(obs[0], action, ones, obs[1], ahead)
    imagined = jax.random.normal(keys[3], (2, IMAGINED, SPEC.size))
    more = jax.random.uniform(keys[4], (IMAGINED, ACTIONS), minval=-1.0)
    both = feasibility.Batch(
        obs=jnp.concatenate([obs[0], imagined[0]]),
        action=jnp.concatenate([action, more]),
        h=jnp.where(jnp.arange(LOGGED + IMAGINED) % 3 == 0, 25.0, -1.0)[:, None],
        next_obs=jnp.concatenate([obs[1], imagined[1]]),
        obs_ahead=jnp.concatenate([obs[1], imagined[1]]),
        discount=jnp.ones(LOGGED + IMAGINED),
        weight=jnp.ones(LOGGED + IMAGINED),
    )
    return logged, both


def acted(
    nets: proco.Networks, samples: int = 64, seed: int = 0, feasible_up_to: float = 0.0
) -> np.ndarray:
    empty: Any = {"q": None, "v": None, "policy": None}
    state = proco.AgentState(empty, None, None, feasibility.FeasibilityState(empty, None, None))  # pyright: ignore
    config = dataclasses.replace(CONFIG, samples=samples, feasible_up_to=feasible_up_to)
    obs, key = jnp.zeros(SPEC.size), jax.random.key(seed)
    return np.asarray(proco.propose(config, nets, state, obs, key)[0])


def test_log_probability_by_hand():
    nets = critics(None, mean=0.5)
    action = jnp.array([[0.5, 0.5], [1.5, 0.5]])
    found = proco.log_probability(nets.policy, None, jnp.zeros((2, SPEC.size)), action)
    np.testing.assert_allclose(found, [0.0, -0.5], atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_sample_acts_whatever_it_is(seed):
    nets = critics(lambda o, a: a[..., 0])
    alone = acted(nets, samples=1, seed=seed)
    assert np.all(alone != 0.0) and np.all(np.abs(alone) <= 1.0)


def test_act_takes_a_feasible_action_and_not_always_the_same():
    nets = critics(lambda o, a: a[..., 0])
    chosen = np.stack([acted(nets, seed=seed) for seed in range(20)])
    assert np.all(chosen[:, 0] <= 0.0)
    # Feasibility asks nothing of the second number, which stays as it was drawn.
    assert (chosen[:, 1] > 0).any() and (chosen[:, 1] < 0).any()


def test_what_counts_as_feasible_can_be_moved():
    nets = critics(lambda o, a: a[..., 0])
    for bound in (-0.3, 0.3):
        chosen = np.stack([acted(nets, seed=seed, feasible_up_to=bound) for seed in range(20)])
        assert bound - 0.3 < chosen[:, 0].max() <= bound
    # The first of the samples where all will do, and the best where none does.
    everything = [acted(nets, seed=seed, feasible_up_to=2.0)[0] for seed in range(20)]
    assert max(everything) > 0.5
    assert acted(nets, feasible_up_to=-2.0)[0] < -0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_act_takes_the_least_infeasible_where_nothing_is_feasible(seed):
    nets = critics(lambda o, a: 5.0 + a[..., 0])
    assert acted(nets, seed=seed)[0] < -0.7


def test_imagined_samples_weigh_in_only_where_the_state_is_infeasible():
    obs = jnp.zeros((6, SPEC.size)).at[:, 0].set(jnp.array([-1.0, 1, -1, 1, 1, -1]))
    obs = obs.at[:, 1].set(jnp.array([-1.0, 0, -1, 0, 0, -2]))
    nets = critics(lambda o, a: o[..., 1], vh=lambda o: o[..., :1])
    batch = feasibility.Batch(
        obs,
        jnp.zeros((6, ACTIONS)),
        -jnp.ones((6, 1)),
        obs,
        jnp.zeros((6, SPEC.size)),
        jnp.ones(6),
        jnp.array([1.0] * 4 + [0.0, 1]),
    )
    empty: Any = {"q": None, "v": None}
    critic: Any = feasibility.FeasibilityState(empty, None, None)  # pyright: ignore
    agent = proco.AgentState(None, None, None, critic)  # pyright: ignore
    weights = proco._weights(CONFIG, FEASIBILITY, nets, agent, jnp.array([0.0, 0.0]), batch)
    # Two logged: after reward, away from harm. Four imagined: feasible, so the
    # reward is unknown; infeasible; infeasible but of no weight; feasible.
    came = FEASIBILITY.discount - 1.0
    away, less = np.exp(CONFIG.cost_temperature * (1.0 - came)), CONFIG.imagined_weight
    np.testing.assert_allclose(weights, [1.0, away, 0.0, less * away, 0.0, 0.0], rtol=1e-5)


def test_a_temperature_means_the_same_whatever_the_size_of_rewards():
    obs, ones = jnp.zeros((5, SPEC.size)), jnp.ones(5)
    nets = critics(lambda o, a: -ones, vh=lambda o: -ones[:, None])
    action, h = jnp.zeros((5, ACTIONS)), -ones[:, None]
    batch = feasibility.Batch(obs, action, h, obs, obs, ones, ones)
    critic: Any = feasibility.FeasibilityState({"q": None, "v": None}, None, None)  # pyright: ignore
    agent = proco.AgentState(None, None, None, critic)  # pyright: ignore
    advantage = jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    small, large = (
        proco._weights(CONFIG, FEASIBILITY, nets, agent, s * advantage, batch) for s in (0.01, 3.0)
    )
    np.testing.assert_allclose(small, large, rtol=1e-4)
    assert np.all(np.diff(small) > 0) and float(small[2]) == pytest.approx(1.0)


def test_gradients_of_critics_and_policy_do_not_meet(state, batches):
    logged, both = batches

    @jax.jit
    def by_part(params, critic_params):
        def loss(name):
            def of(p, c):
                critic = dataclasses.replace(state.feasibility, params=c)
                agent = dataclasses.replace(state, feasibility=critic)
                metrics = proco.agent_loss(CONFIG, FEASIBILITY, NETS, p, agent, logged, both)[1]
                return metrics[f"agent/{name}_loss"]

            return jax.grad(of, argnums=(0, 1))(params, critic_params)

        return {name: loss(name) for name in ("v", "policy")}

    for name, (grads, critic_grads) in by_part(state.params, state.feasibility.params).items():
        for part, tree in grads.items():
            moved = any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(tree))
            assert moved == (part == name), f"{name} loss, {part}"
        assert not any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(critic_grads))


def test_one_update_moves_every_part_and_repeats_exactly(state, batches):
    logged, both = batches
    step = jax.jit(lambda s: proco.update(CONFIG, FEASIBILITY, NETS, s, logged, both))
    new, metrics = step(state)
    same_leaves(step(state)[0], new)
    for part in ("v", "policy"):
        before, after = jax.tree.leaves(state.params[part]), jax.tree.leaves(new.params[part])
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)), part
    for old, now, moved in zip(
        *(jax.tree.leaves(x) for x in (state.target_v, new.params["v"], new.target_v)), strict=True
    ):
        rate = CONFIG.target_rate
        np.testing.assert_allclose(moved, (1 - rate) * old + rate * now, atol=1e-5)
    assert all(np.isfinite(float(v)) for v in metrics.values())
    assert {"agent/v_loss", "agent/policy_loss", "feasibility/q_loss"} <= set(metrics)


def test_samples_of_the_policy_batched_follow_its_mean_and_stay_in_range():
    nets = critics(None, mean=0.5)
    state: Any = proco.AgentState({"policy": None}, None, None, None)  # pyright: ignore
    found = np.asarray(proco.sample(nets, state, jnp.zeros((5000, SPEC.size)), jax.random.key(2)))
    assert found.shape == (5000, ACTIONS) and np.abs(found).max() <= 1.0
    # Half of a deviation above the mean lies at the end of the range.
    assert np.median(found) == pytest.approx(0.5, abs=0.05) and (found == 1.0).mean() > 0.25
