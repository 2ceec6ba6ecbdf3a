import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import SPEC, same_leaves
from value_toys import Known

from proco_jax.algorithms import feasibility
from proco_jax.config.schema import FeasibilityConfig
from proco_jax.models import losses
from proco_jax.models.networks import Critic, Encoder, with_saturation
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import NStep, Transition

LINE = ObservationSpec((Field("x", 4, "flat", "", "Which of four states."),))
CONFIG = FeasibilityConfig(hidden=(16,), learning_rate=1e-2, discount=0.9, tau=0.1)
HYPER = feasibility.make_hyper(CONFIG)
NETS = feasibility.make_networks(CONFIG, Encoder(LINE, True, (8, 8), 16, 1))


def transitions(
    obs, next_obs, violation, valid=None, discount=None, n_step_discount=None, last=None
) -> Transition:
    """Rows with these windows `[B, n]`; by default all steps are valid and nothing ends."""
    violation = jnp.asarray(violation)
    count, ones = violation.shape[0], jnp.ones(violation.shape[0])
    valid = jnp.ones(violation.shape, bool) if valid is None else jnp.asarray(valid)
    discount = ones if discount is None else jnp.asarray(discount)
    steps = NStep(
        reward=jnp.zeros(violation.shape),
        cost=violation.astype(jnp.float32),
        violation=violation,
        valid=valid,
        obs=next_obs if last is None else last,
        discount=discount if n_step_discount is None else jnp.asarray(n_step_discount),
    )
    return Transition(
        obs=obs,
        action=jnp.zeros((count, 1)),
        reward=jnp.zeros(count),
        cost=steps.cost[:, 0],
        next_obs=next_obs,
        discount=discount,
        initial_obs=obs,
        n_step=steps,
        weight=ones,
        imagined=jnp.zeros(count, bool),
    )


def chain() -> Transition:
    """0 leads to 1, 1 to the unsafe and final state 2; 3 is safe and stays."""
    states = jnp.eye(4)
    return transitions(
        states[jnp.array([0, 1, 3])],
        states[jnp.array([1, 2, 3])],
        [[False], [True], [False]],
        discount=[1.0, 0.0, 1.0],
    )


def with_violation(batch: Transition, row: int) -> Transition:
    violation = batch.n_step.violation.at[row].set(~batch.n_step.violation[row])
    return batch._replace(n_step=batch.n_step._replace(violation=violation))


@pytest.fixture(scope="module")
def state():
    return jax.jit(lambda k: feasibility.init(NETS, 1, k))(jax.random.key(0))


@pytest.fixture(scope="module")
def update():
    return jax.jit(lambda s, b: feasibility.update(HYPER, NETS, s, b))


@jax.jit
def gradients(params, target_q, batch):
    """Of q's loss, of v's loss, and of their sum, each with respect to all parameters."""

    def part(name):
        def loss(p, t):
            total, metrics = feasibility.critic_loss(HYPER, NETS, p, t, batch)
            return metrics[f"feasibility/{name}_loss"] if name else total

        return jax.grad(loss, argnums=(0, 1))(params, target_q)

    return part("q"), part("v"), part("")


def zero(tree) -> bool:
    return all(not np.any(np.asarray(x)) for x in jax.tree.leaves(tree))


def outcome(batch: Transition, vh: float) -> np.ndarray:
    """The n-step outcome where V_h is a constant."""
    nets = NETS._replace(v=Known(lambda o: jnp.full((*o.shape[:-1], 1), vh)))  # pyright: ignore
    return np.asarray(feasibility.n_step_outcome(HYPER, nets, {"v": None}, batch))


def window(violation, valid, discount: float = 1.0) -> Transition:
    obs = jnp.zeros((1, 4))
    return transitions(obs, obs, [violation], valid=[valid], n_step_discount=[discount])


@pytest.mark.parametrize("spec", [SPEC, LINE])
@pytest.mark.parametrize("rings", [True, False])
def test_a_copied_encoder_encodes_states_alike_and_hears_of_actions_as_before(spec, rings):
    encoder = Encoder(spec, rings, (8, 8), 16, 1)
    nets, other = feasibility.make_networks(CONFIG, encoder), Critic(encoder, (4,), 1)
    fresh = jax.jit(lambda key: feasibility.init(nets, 2, key))(jax.random.key(0))
    source = jax.jit(other.init)(jax.random.key(1), jnp.zeros(spec.size))
    begun = jax.jit(lambda f, s: feasibility.with_encoder(nets, f, s))(fresh, source)
    obs = jax.random.uniform(jax.random.key(2), (7, spec.size))
    action = jax.random.uniform(jax.random.key(3), (7, 2), minval=-1.0)

    @jax.jit
    def encoded(params, extra):
        return encoder.apply({"params": params["params"]["encoder"]}, obs, extra)

    wanted = encoded(source, obs[:, :0])
    np.testing.assert_allclose(encoded(begun.params["v"], obs[:, :0]), wanted, rtol=1e-6)
    none, some = with_saturation(jnp.zeros_like(action)), with_saturation(action)
    np.testing.assert_allclose(encoded(begun.params["q"], none), wanted, rtol=1e-5, atol=1e-6)
    assert not np.allclose(encoded(begun.params["q"], some), wanted, atol=1e-3)
    # All weights that a source has not are as they were, and the target begins as its network.
    same_leaves(begun.target_q, begun.params["q"])
    for name in ("q", "v"):
        own, before = (x.params[name]["params"] for x in (begun, fresh))
        same_leaves({**own, "encoder": None}, {**before, "encoder": None})
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, before)
    same_leaves(begun.optimizer, fresh.optimizer)


def test_outcome_of_a_full_window_by_hand():
    # 0.1 * -1 + 0.9 * max(-1, V_h) at safe states, here with V_h = 10: 8.9, then 7.91, then 7.019.
    found = outcome(window([False] * 3, [True] * 3), 10.0)
    np.testing.assert_allclose(found, [7.019], rtol=1e-6)
    # A violation in the middle: 0.1 * 25 + 0.9 * 8.9 = 10.51; then 0.1 * -1 + 0.9 * 10.51.
    found = outcome(window([False, True, False], [True] * 3), 10.0)
    np.testing.assert_allclose(found, [9.359], rtol=1e-6)


def test_outcome_of_a_window_that_ends_in_a_termination_by_hand():
    # h of the last valid step is 25 and nothing follows; 0.1 * -1 + 0.9 * 25. V_h does not count.
    valid = [True, True, False]
    for vh in (-50.0, 50.0):
        found = outcome(window([False, True, False], valid, discount=0.0), vh)
        np.testing.assert_allclose(found, [22.4], rtol=1e-6)
        # A safe last step: -1, at every step before.
        found = outcome(window([False, False, False], valid, discount=0.0), vh)
        np.testing.assert_allclose(found, [-1.0], rtol=1e-6)
        # So does a window whose last step is the termination.
        found = outcome(window([False, False, True], [True] * 3, discount=0.0), vh)
        np.testing.assert_allclose(found, [0.1 * -1 + 0.9 * 22.4], rtol=1e-6)


def test_outcome_of_a_window_cut_by_a_time_limit_by_hand():
    # V_h = 10 of the last observation passes unchanged through the two steps that are missing,
    # whatever stands there; then 0.1 * -1 + 0.9 * 10.
    valid = [True, False, False]
    for beyond in (False, True):
        found = outcome(window([False, beyond, beyond], valid), 10.0)
        np.testing.assert_allclose(found, [8.9], rtol=1e-6)


def test_outcome_of_one_step_is_the_target_of_qh():
    batch = chain()
    found = outcome(batch, 7.0)
    h = feasibility.constraint_value(HYPER, batch.n_step.violation[:, 0])
    sevens = jnp.full(3, 7.0)
    expected = losses.reachability_target(
        h, sevens, batch.discount, CONFIG.discount, CONFIG.violation_discount
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_outcome_is_the_backup_over_the_steps_that_followed(state):
    params, last = state.params, jnp.eye(4)[2:3]
    batch = transitions(last, last, [[False, True, False]])
    vh = feasibility.vh(NETS, params, last)
    one = jnp.ones(1)
    expected = vh
    for h in (-1.0, 25.0, -1.0):
        expected = losses.reachability_target(
            h * one, expected, one, CONFIG.discount, CONFIG.violation_discount
        )
    found = feasibility.n_step_outcome(HYPER, NETS, params, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # A violation on the way counts, however safe the last state.
    assert float(vh[0]) < 0 < float(found[0])


def test_batched_outcomes_equal_each_row():
    windows = [
        window([False, True, False], [True] * 3),
        window([True, False, False], [True, False, False]),
        window([False, True, False], [True, True, False], discount=0.0),
    ]
    batch = jax.tree.map(lambda *x: jnp.concatenate(x), *windows)
    alone = np.concatenate([outcome(one, 3.0) for one in windows])
    np.testing.assert_allclose(outcome(batch, 3.0), alone, rtol=1e-6)


def test_constraint_value_by_hand():
    h = feasibility.constraint_value(HYPER, jnp.array([True, False]))
    np.testing.assert_array_equal(h, [25.0, -1.0])


def test_each_loss_moves_only_its_own_network(state):
    (by_q, target_by_q), (by_v, target_by_v), (both, target_by_both) = gradients(
        state.params, state.target_q, chain()
    )
    # q's target contains V_h, which must not be moved by q's loss.
    assert not zero(by_q["q"]) and zero(by_q["v"])
    assert not zero(by_v["v"]) and zero(by_v["q"])
    assert zero(target_by_q) and zero(target_by_v) and zero(target_by_both)
    same_leaves(both["q"], by_q["q"], rtol=1e-6)
    same_leaves(both["v"], by_v["v"], rtol=1e-6)


def test_rows_of_weight_zero_do_not_count(state):
    weight = jnp.array([1.0, 1.0, 0.0])
    batch = chain()
    other = with_violation(batch, 2)._replace(obs=batch.obs.at[2].set(5.0), weight=weight)
    same_leaves(
        gradients(state.params, state.target_q, other),
        gradients(state.params, state.target_q, batch._replace(weight=weight)),
    )
    changed = gradients(state.params, state.target_q, other._replace(weight=jnp.ones(3)))
    with pytest.raises(AssertionError):
        same_leaves(changed, gradients(state.params, state.target_q, batch))


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
    # 25 at once; one step before, 0.1 * -1 + 0.9 * 25; -1 forever.
    expected = [22.4, 25.0, -1.0]
    np.testing.assert_allclose(q, expected, atol=0.5)
    np.testing.assert_allclose(v, expected, atol=0.5)
    assert float(metrics["feasibility/infeasible_share"][-1]) == pytest.approx(2 / 3)


def test_the_larger_of_the_two_heads_counts():
    nets = NETS._replace(
        q=Known(lambda obs, action: jnp.stack([obs[..., 0], action[..., 0]], axis=-1))  # pyright: ignore
    )
    found = feasibility.qh(nets, {"q": None}, jnp.array([[1.0], [1.0]]), jnp.array([[2.0], [0.0]]))
    np.testing.assert_array_equal(found, [2.0, 1.0])


def test_batch_of_another_rank_is_rejected(state):
    batch = chain()
    steps = batch.n_step._replace(violation=batch.n_step.violation[:, None])
    with pytest.raises(AssertionError):
        feasibility.critic_loss(
            HYPER, NETS, state.params, state.target_q, batch._replace(n_step=steps)
        )
    assert dataclasses.is_dataclass(state)
