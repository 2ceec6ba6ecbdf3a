import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.algorithms import feasibility
from proco_jax.config.schema import AgentConfig, FeasibilityConfig
from proco_jax.models import losses
from proco_jax.models.networks import Encoder
from proco_jax.observation import Field, ObservationSpec

LINE = ObservationSpec((Field("x", 4, "flat", "", "Which of four states."),))
CONFIG = FeasibilityConfig(discount=0.9, target_rate=0.1)
AGENT = AgentConfig(hidden=(16,), learning_rate=1e-2)
NETS = feasibility.networks(FeasibilityConfig(), AGENT.hidden, Encoder(LINE, True, (8, 8), 16, 1))


def chain() -> feasibility.Batch:
    """0 leads to 1, 1 to the unsafe and final state 2; 3 is safe and stays."""
    states = jnp.eye(4)
    return feasibility.Batch(
        obs=states[jnp.array([0, 1, 3])],
        action=jnp.zeros((3, 1)),
        h=jnp.array([-1.0, 25.0, -1.0])[:, None],
        next_obs=states[jnp.array([1, 2, 3])],
        obs_ahead=states[jnp.array([1, 2, 3])],
        discount=jnp.array([1.0, 0.0, 1.0]),
        weight=jnp.ones(3),
    )


@pytest.fixture(scope="module")
def state():
    return jax.jit(lambda k: feasibility.init(AGENT, NETS, 1, k))(jax.random.key(0))


@pytest.fixture(scope="module")
def update():
    return jax.jit(lambda s, b: feasibility.update(CONFIG, AGENT, NETS, s, b))


@jax.jit
def gradients(params, target_q, batch):
    """Of q's loss and of v's loss, each with respect to all parameters."""

    def part(name):
        def loss(p, t):
            return feasibility.critic_loss(CONFIG, NETS, p, t, batch)[1][f"feasibility/{name}_loss"]

        return jax.grad(loss, argnums=(0, 1))(params, target_q)

    return part("q"), part("v")


def zero(tree) -> bool:
    return all(not np.any(np.asarray(x)) for x in jax.tree.leaves(tree))


def test_outcome_is_the_backup_over_the_steps_that_followed(state):
    params, last = state.params, jnp.eye(4)[2:3]
    start = chain()._replace(obs_ahead=last, h=jnp.array([[-1.0, 25.0, -1.0]]))
    vh = feasibility.vh(NETS, params, last)
    one = jnp.ones(1)
    expected = vh
    for h in (-1.0, 25.0, -1.0):
        expected = losses.reachability_target(
            h * one, expected, one, CONFIG.discount, CONFIG.duration
        )
    found = feasibility.outcome(CONFIG, NETS, params, start)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # A violation on the way stays one, however safe its end.
    assert float(vh[0]) < 0 < float(found[0])


def test_constraint_value_by_hand():
    h = feasibility.constraint_value(FeasibilityConfig(), jnp.array([True, False]))
    np.testing.assert_array_equal(h, [25.0, -1.0])


def test_gradients_of_the_two_losses_do_not_meet(state):
    (by_q, target_by_q), (by_v, target_by_v) = gradients(state.params, state.target_q, chain())
    assert not zero(by_q["q"]) and zero(by_q["v"])
    assert not zero(by_v["v"]) and zero(by_v["q"])
    assert zero(target_by_q) and zero(target_by_v)


def test_samples_of_weight_zero_teach_nothing(state):
    batch = chain()
    other = batch._replace(
        h=batch.h.at[2].set(1e3), obs=batch.obs.at[2].set(5.0), weight=jnp.array([1.0, 1.0, 0.0])
    )
    same = batch._replace(weight=jnp.array([1.0, 1.0, 0.0]))
    for a, b in zip(
        jax.tree.leaves(gradients(state.params, state.target_q, other)),
        jax.tree.leaves(gradients(state.params, state.target_q, same)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_batch_without_weight_has_no_gradient_and_stays_finite(state):
    batch = chain()._replace(weight=jnp.zeros(3))
    assert zero(gradients(state.params, state.target_q, batch))


def test_target_moves_by_its_rate(state, update):
    new, _ = update(state, chain())
    for old, now, moved in zip(
        *(jax.tree.leaves(x) for x in (state.target_q, new.params["q"], new.target_q)), strict=True
    ):
        np.testing.assert_allclose(moved, 0.9 * old + 0.1 * now, atol=1e-6)


def test_batched_values_equal_per_row(state):
    batch = chain()
    q = jax.jit(lambda o, a: feasibility.qh(NETS, state.params, o, a))
    v = jax.jit(lambda o: feasibility.vh(NETS, state.params, o))
    for i in range(3):
        np.testing.assert_allclose(
            q(batch.obs, batch.action)[i], q(batch.obs[i], batch.action[i]), atol=1e-5
        )
        np.testing.assert_allclose(v(batch.obs)[i], v(batch.obs[i]), atol=1e-5)


def test_chain_to_a_violation_has_the_values_that_the_backup_gives(state, update):
    batch = chain()

    @jax.jit
    def learn(s):
        return jax.lax.scan(lambda s, _: update(s, batch), s, None, length=1500)

    learned, metrics = learn(state)
    v = jax.jit(lambda o: feasibility.vh(NETS, learned.params, o))(batch.obs)
    q = jax.jit(lambda o, a: feasibility.qh(NETS, learned.params, o, a))(batch.obs, batch.action)
    # 25 at once; one step before, 0.1 * -1 + 0.9 * 25; -1 for ever.
    expected = [22.4, 25.0, -1.0]
    np.testing.assert_allclose(q, expected, atol=0.5)
    np.testing.assert_allclose(v, expected, atol=0.5)
    assert float(metrics["feasibility/infeasible_share"][-1]) == pytest.approx(2 / 3)


def test_larger_of_the_two_heads_is_what_counts():
    class Heads:
        def apply(self, params, obs, action):
            return jnp.stack([obs[..., 0], action[..., 0]], axis=-1)

    nets = NETS._replace(q=Heads())
    found = feasibility.qh(nets, {"q": None}, jnp.array([[1.0], [1.0]]), jnp.array([[2.0], [0.0]]))
    np.testing.assert_array_equal(found, [2.0, 1.0])


def test_batch_of_another_rank_is_refused(state):
    batch = chain()
    with pytest.raises(AssertionError):
        feasibility.critic_loss(
            CONFIG, NETS, state.params, state.target_q, batch._replace(h=batch.h[:, None])
        )
    assert dataclasses.is_dataclass(state)
