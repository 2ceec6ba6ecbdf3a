"""Laws of the improvement in imagination: advantages, losses, multiplier, worlds."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import same_leaves

from proco_jax.algorithms import imagination
from proco_jax.algorithms.imagination import Batch, Networks, State
from proco_jax.augmentation.base import Outcome, World
from proco_jax.config.schema import ImaginationConfig
from proco_jax.models.normalizer import Normalizer

SETTINGS = ImaginationConfig(
    updates=5, warmup=0, worlds=3, horizon=4, age=100, epochs=2, minibatches=2, learning_rate=1e-2
)
HYPER = imagination.make_hyper(SETTINGS)._replace(multiplier_rate=jnp.float32(0.02))
# The state is a position; it is lost beyond LOST, unsafe above 0, and a goal at GOAL or more, after
# which it is AFTER.
LOST, GOAL, BONUS, AFTER = -5.0, 5.0, 7.0, -3.0


class Line(nn.Module):
    """A linear network of one number: a value, or mean and log std of an action."""

    policy: bool = False

    @nn.compact
    def __call__(self, obs: jax.Array) -> Any:
        slope = self.param("slope", nn.initializers.constant(0.0), (1,))
        bias = self.param("bias", nn.initializers.constant(0.0), (1,))
        out = obs * slope + bias
        if not self.policy:
            return out
        log_std = self.param("log_std", nn.initializers.constant(-20.0), (1,))
        return out, jnp.broadcast_to(log_std, out.shape)


NETS: Any = Networks(Line(policy=True), Line(), Line())  # pyright: ignore


def line_world(start: float = -1.0) -> World:
    """Actions are added to the position; logged actions are 0.5, every other one safe."""

    def step(key: jax.Array, obs: jax.Array, action: jax.Array) -> Outcome:
        after = obs + action
        x = after[..., 0]
        return Outcome(after, -jnp.abs(x), 1.0 * (x >= GOAL), x > 0, x <= LOST)

    def logged(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        return jnp.full((n, 1), -1.0), jnp.full((n, 1), 0.5), jnp.arange(n) % 2 == 0

    def starts(key: jax.Array, n: int, share: jax.Array) -> jax.Array:
        return jnp.full((n, 1), start)

    def redraw(key: jax.Array, state: jax.Array, bonus: jax.Array) -> jax.Array:
        return jnp.where(bonus[:, None], AFTER, state)

    normalizer = Normalizer(jnp.zeros(1), jnp.ones(1))
    return World(normalizer, lambda state: state, step, jnp.float32(BONUS), redraw, starts, logged)


def params(slope: float, bias: float, log_std: float | None = None) -> Any:
    own = {"slope": jnp.array([slope]), "bias": jnp.array([bias])}
    return {"params": own if log_std is None else own | {"log_std": jnp.array([log_std])}}


def begun(obs: list[float], drift: float = 1.0, log_std: float = -20.0) -> State:
    """Worlds at these positions, moved by `drift` a step; V_r is 2 x, V_c is 1."""
    policy = params(0.0, drift, log_std)
    state = imagination.init(SETTINGS, HYPER, NETS, line_world(), policy, jax.random.key(0))
    values = {"reward": params(2.0, 0.0), "cost": params(0.0, 1.0)}
    positions = jnp.array(obs)[:, None]
    return dataclasses.replace(
        state, values=values, imagined=positions, age=jnp.zeros(len(obs), jnp.int32)
    )


def act(state: State, world: World | None = None, **changes: Any) -> Any:
    settings = dataclasses.replace(SETTINGS, **changes)
    world = world or line_world()
    return imagination.act(settings, HYPER, NETS, world, state, jax.random.key(1))


def batch(**changes: Any) -> Batch:
    two = jnp.array([1.0, -1.0])
    like = Batch(two[:, None], jnp.array([[0.5], [0.1]]), jnp.zeros(2), two, two, two, two)
    return like._replace(**changes)


def column(*values: Any) -> jax.Array:
    return jnp.array(values)[:, None]


def test_advantages_by_hand():
    # Errors 1 + 0.5 * 4 - 2 = 1 and 0 + 0.5 * 2 - 4 = -3; the first adds 0.5 * 0.8 of the second.
    found = imagination.advantages(
        column(1.0, 0.0), column(2.0, 4.0), column(4.0, 2.0), column(False, False), 0.5, 0.8
    )
    np.testing.assert_allclose(found[:, 0], [1.0 - 0.4 * 3.0, -3.0], rtol=1e-6)


def test_advantages_are_those_of_an_explicit_double_loop():
    rng = np.random.default_rng(0)
    shape, g, decay = (7, 4), 0.9, 0.8
    reward, value, later = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
    ends = rng.random(shape) < 0.3
    found = imagination.advantages(
        jnp.asarray(reward), jnp.asarray(value), jnp.asarray(later), jnp.asarray(ends), g, decay
    )
    for w in range(shape[1]):
        for t in range(shape[0]):
            total, factor = 0.0, 1.0
            for k in range(t, shape[0]):
                total += factor * (reward[k, w] + g * later[k, w] - value[k, w])
                factor *= g * decay
                if ends[k, w]:
                    break
            np.testing.assert_allclose(found[t, w], total, rtol=1e-4, atol=1e-5)


def test_with_lambda_1_advantages_are_returns_minus_values():
    reward, value = column(1.0, 2.0, 4.0), column(3.0, 5.0, 6.0)
    later = jnp.concatenate([value[1:], column(10.0)])
    found = imagination.advantages(reward, value, later, jnp.zeros((3, 1), bool), 0.5, 1.0)
    returns = np.array([1 + 1 + 1 + 1.25, 2 + 2 + 2.5, 4 + 5])
    np.testing.assert_allclose(found[:, 0], returns - np.array([3, 5, 6]), rtol=1e-6)


def test_the_constrained_advantage_is_normalized_and_falls_with_the_cost():
    gain, cost = jnp.array([1.0, 1.0, 4.0]), jnp.array([0.0, 2.0, 1.0])
    found = imagination.constrained_advantage(gain, cost, jnp.float32(1.5))
    joint = np.array([1.0, -2.0, 2.5])
    np.testing.assert_allclose(found, (joint - joint.mean()) / joint.std(), rtol=1e-5)


def test_surrogate_by_hand():
    # Ratios 1.5 and 0.5, clipped to 1.2 and 0.8: min(1.5, 1.2) and min(-0.5, -0.8).
    log_prob, old = jnp.log(jnp.array([1.5, 0.5])), jnp.zeros(2)
    found = imagination.surrogate_loss(log_prob, old, jnp.array([1.0, -1.0]), jnp.float32(0.2))
    np.testing.assert_allclose(found, -(1.2 - 0.8) / 2, rtol=1e-6)


def test_the_surrogate_has_a_gradient_within_the_clip_only():
    def loss(log_prob: jax.Array, advantage: jax.Array) -> jax.Array:
        return imagination.surrogate_loss(log_prob, jnp.zeros(2), advantage, jnp.float32(0.2))

    log_prob = jnp.log(jnp.array([1.5, 1.1]))
    found = jax.grad(loss)(log_prob, jnp.ones(2))
    np.testing.assert_allclose(found, [0.0, -1.1 / 2], rtol=1e-6)
    # A ratio that is too large for a bad action is always corrected.
    np.testing.assert_allclose(jax.grad(loss)(log_prob, -jnp.ones(2)), [0.75, 0.55], rtol=1e-6)


def test_the_likelihood_counts_safe_actions_alone():
    def loss(log_prob: jax.Array) -> jax.Array:
        return imagination.likelihood(log_prob, jnp.array([True, False, True]))

    log_prob = jnp.array([1.0, 50.0, 2.0])
    assert loss(log_prob) == 1.5
    np.testing.assert_allclose(jax.grad(loss)(log_prob), [0.5, 0.0, 0.5])


def logged_rows(safe: bool = True) -> tuple[jax.Array, jax.Array, jax.Array]:
    return jnp.array([[2.0]]), jnp.array([[0.5]]), jnp.array([safe])


def policy_gradient(data: Batch, multiplier: float, safe: bool, weight: float = 1.0) -> Any:
    hyper = HYPER._replace(likelihood_weight=jnp.float32(weight))

    def loss(policy: Any) -> jax.Array:
        inputs = (policy, jnp.float32(multiplier), data, logged_rows(safe))
        return imagination.policy_loss(hyper, NETS, *inputs)[0]

    return jax.grad(loss)(params(0.0, 0.0, 0.0))["params"]["bias"][0]


@pytest.mark.slow
def test_reward_raises_the_density_of_better_actions():
    zero = jnp.zeros(2)
    # Of the actions 0.5 and 0.1 at mean 0, the first one is better by two deviations:
    # the gradient of the bias is -(1 * 0.5 - 1 * 0.1) exp(log ratio) / 2.
    ratio = np.exp(-0.5 * np.array([0.25, 0.01]))
    data = batch(cost_advantage=zero, log_prob=jnp.log(jnp.asarray(ratio)))
    found = policy_gradient(data, 0.3, safe=False)
    np.testing.assert_allclose(found, -(0.5 - 0.1) / 2, rtol=1e-5)


def test_cost_lowers_it_through_the_multiplier_alone():
    ratio = np.exp(-0.5 * np.array([0.25, 0.01]))
    data = batch(advantage=jnp.zeros(2), log_prob=jnp.log(jnp.asarray(ratio)))
    found = policy_gradient(data, 0.3, safe=False)
    np.testing.assert_allclose(found, (0.5 - 0.1) / 2, rtol=1e-4)
    assert policy_gradient(data, 0.0, safe=False) == 0.0


def test_the_likelihood_term_pulls_toward_safe_logged_actions():
    data = batch(advantage=jnp.zeros(2), cost_advantage=jnp.zeros(2))
    # d/d mean of -(0.5 - mean)^2 / 2 at 0 is 0.5.
    np.testing.assert_allclose(policy_gradient(data, 0.3, True, 2.0), -2.0 * 0.5, rtol=1e-6)
    assert policy_gradient(data, 0.3, False, 2.0) == 0.0


def test_values_by_hand_and_each_moves_its_own_parameters():
    values = {"reward": params(0.0, 0.0), "cost": params(0.0, 0.0)}
    data = batch(target=jnp.array([1.0, 3.0]), cost_target=jnp.array([2.0, 2.0]))

    def loss(values: Any) -> jax.Array:
        return imagination.values_loss(NETS, values, data)[0]

    # Mean squares 5 and 4; gradients of the biases are 10 * 2 * mean(-target), 2 * mean(-target).
    np.testing.assert_allclose(loss(values), 10 * 5 + 4, rtol=1e-6)
    grads = jax.grad(loss)(values)
    np.testing.assert_allclose(grads["reward"]["params"]["bias"], [-40.0], rtol=1e-6)
    np.testing.assert_allclose(grads["cost"]["params"]["bias"], [-4.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (0.02, 0.3),
        (0.03, 0.3 * np.exp(0.05)),
        (0.9, 0.3 * np.exp(0.1)),
        (0.0, 0.3 * np.exp(-0.1)),
    ],
)
def test_the_multiplier_moves_with_the_excess_of_cost(cost: float, expected: float):
    inputs = (jnp.float32(x) for x in (0.3, cost, 0.02, 0.1, 0.6))
    np.testing.assert_allclose(imagination.ascend(*inputs), expected, rtol=1e-6)


def test_the_multiplier_stays_within_its_bounds():
    def last(cost: float) -> float:
        multiplier = jnp.float32(0.3)
        others = [jnp.float32(x) for x in (cost, 0.02, 0.5, 0.6)]
        for _ in range(20):
            multiplier = imagination.ascend(multiplier, *others)
        return float(multiplier)

    assert last(1.0) == pytest.approx(0.6)
    assert last(0.0) == pytest.approx(imagination.SMALLEST_MULTIPLIER)


def test_a_rate_of_zero_keeps_the_multiplier():
    for multiplier in (0.0, 0.3, 5.0):
        inputs = (jnp.float32(x) for x in (multiplier, 0.9, 0.02, 0.0, 0.6))
        assert imagination.ascend(*inputs) == jnp.float32(multiplier)


def test_steps_by_hand():
    (obs, age), steps = act(begun([-2.0, 1.0, -4.0]), horizon=2)
    np.testing.assert_allclose(obs[:, 0], [0.0, 3.0, -2.0], atol=1e-6)
    np.testing.assert_array_equal(age, [2, 2, 2])
    np.testing.assert_allclose(steps.reward, [[-1, -2, -3], [0, -3, -2]], atol=1e-6)
    np.testing.assert_array_equal(steps.cost[0], [0, 1, 0])
    np.testing.assert_allclose(steps.value[0], [-4, 2, -8], atol=1e-6)
    np.testing.assert_allclose(steps.next_value[0], [-2, 4, -6], atol=1e-6)
    np.testing.assert_allclose(steps.next_cost_value, 1.0)
    assert not steps.ends.any()


def test_a_world_continues_after_a_bonus_with_what_it_draws_anew():
    # 4 + 1 is the goal; the value of AFTER is -6.
    (obs, age), steps = act(begun([-4.0, 4.0, -2.0]), horizon=1)
    np.testing.assert_allclose(obs[:, 0], [-3.0, AFTER, -1.0], atol=1e-6)
    np.testing.assert_array_equal(age, [1, 1, 1])
    np.testing.assert_array_equal(steps.bonus[0], [False, True, False])
    assert not steps.ends.any()
    np.testing.assert_allclose(steps.reward[0], [-3, BONUS - 5, -1], atol=1e-6)
    np.testing.assert_allclose(steps.next_value[0], [-6, -6, -2], atol=1e-6)
    np.testing.assert_allclose(steps.next_cost_value, 1.0)


def test_a_lost_world_starts_anew_and_nothing_more_is_earned_in_it():
    (obs, age), steps = act(begun([-4.0, 0.0, -2.0], drift=-1.0), horizon=1)
    np.testing.assert_allclose(obs[:, 0], [-1.0, -1.0, -3.0], atol=1e-6)
    np.testing.assert_array_equal(age, [0, 1, 1])
    np.testing.assert_array_equal(steps.lost[0], [True, False, False])
    np.testing.assert_array_equal(steps.ends, steps.lost)
    np.testing.assert_allclose(steps.next_value[0], [0, -2, -6], atol=1e-6)
    np.testing.assert_allclose(steps.next_cost_value, 1.0)


def test_no_world_continues_from_a_state_beyond_its_end():
    (obs, _), steps = act(begun([3.0, 4.0, -4.0]), horizon=20)
    seen = np.concatenate([steps.obs[..., 0], np.asarray(obs).T])
    assert np.all(seen < GOAL - 1e-3) and np.all(seen > LOST)
    bonus = np.asarray(steps.bonus)
    assert bonus.sum(axis=0).min() > 0
    np.testing.assert_allclose(seen[1:][bonus], AFTER, atol=1e-6)
    np.testing.assert_allclose((seen[1:] - seen[:-1])[~bonus], 1.0, atol=1e-5)


@pytest.mark.slow
def test_what_ends_one_world_has_no_effect_on_others():
    others = act(begun([-4.0, 4.0, -2.0]), horizon=3)[1]
    alone = act(begun([-4.0, -4.0, -2.0]), horizon=3)[1]
    same_leaves(
        jax.tree.map(lambda x: x[:, [0, 2]], others), jax.tree.map(lambda x: x[:, [0, 2]], alone)
    )


def test_worlds_end_at_random_beyond_their_age_only():
    state = dataclasses.replace(begun([-3.0] * 400, drift=0.0), age=jnp.full(400, 5, jnp.int32))
    young = act(state, worlds=400, horizon=1, age=6)[1]
    old = act(state, worlds=400, horizon=1, age=5)[1]
    assert not young.ends.any()
    assert 0.05 < float(old.ends.mean()) < 0.16
    # It is no end of the task: what follows keeps its value.
    np.testing.assert_allclose(old.next_value, -6.0, atol=1e-5)


def test_actions_keep_the_density_with_which_they_were_drawn():
    (obs, _), steps = act(begun([-2.0, 0.0, -3.0], drift=3.0, log_std=0.0), horizon=1)
    outside = np.abs(steps.action) > 1
    assert outside.any()
    expected = -0.5 * np.square(np.asarray(steps.action[..., 0]) - 3.0)
    np.testing.assert_allclose(steps.log_prob, expected, rtol=1e-4, atol=1e-5)
    # The world receives them within their range.
    moved = np.asarray(obs[:, 0]) - np.array([-2.0, 0.0, -3.0])
    np.testing.assert_allclose(moved, np.clip(steps.action[0, :, 0], -1, 1), atol=1e-5)


@jax.jit
def one_update(state: State, key: jax.Array) -> tuple[State, Any]:
    settings = dataclasses.replace(SETTINGS, warmup=1)
    return imagination.update(settings, HYPER, NETS, line_world(), state, key)


def test_the_learning_rate_decays_to_a_tenth_after_the_warmup():
    settings = dataclasses.replace(SETTINGS, warmup=2, updates=12)
    shares = [float(imagination.rate_share(settings, jnp.int32(n))) for n in (0, 2, 7, 12)]
    np.testing.assert_allclose(shares, [1.0, 1.0, 0.55, 0.1], rtol=1e-6)

    # The first step of Adam moves a parameter by the learning rate.
    settings = dataclasses.replace(settings, epochs=1, minibatches=1)
    begin = begun([-2.0, 1.0, -4.0], log_std=-1.0)

    @jax.jit
    def moved(updates: jax.Array) -> jax.Array:
        state = dataclasses.replace(begin, updates=updates)
        key, world = jax.random.key(2), line_world()
        after, _ = imagination.update(settings, HYPER, NETS, world, state, key)
        return jnp.abs(after.policy["params"]["bias"] - begin.policy["params"]["bias"])

    for updates, share in ((2, 1.0), (12, 0.1)):
        expected = share * SETTINGS.learning_rate
        np.testing.assert_allclose(moved(jnp.int32(updates)), expected, rtol=5e-2)


def test_the_mean_age_of_the_averaged_policies_is_a_tenth_of_the_updates():
    settings = dataclasses.replace(SETTINGS, warmup=3)
    state, found = begun([-1.0]), []
    for n in range(53):
        # The policy of the t-th update after the warmup is t, before that 0.
        policy = jax.tree.map(lambda x, n=n: jnp.full_like(x, max(n - 2, 0)), state.policy)
        state = dataclasses.replace(state, policy=policy, updates=jnp.int32(n))
        state = dataclasses.replace(state, average=imagination.averaged(settings, state))
        found.append(float(state.average["params"]["bias"][0]))
    # In closed form the average is 0.9 t + 0.1.
    expected = [0.0] * 3 + [0.9 * t + 0.1 for t in range(1, 51)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_warmup_moves_values_alone_and_then_policy_and_multiplier_move():
    begin = begun([-2.0, 1.0, -4.0], log_std=-1.0)
    first, metrics = one_update(begin, jax.random.key(2))
    same_leaves((first.policy, first.policy_optimizer), (begin.policy, begin.policy_optimizer))
    assert first.multiplier == begin.multiplier and first.updates == 1
    same_leaves(first.average, begin.policy)
    assert metrics["imagination/multiplier"] == begin.multiplier
    second, _ = one_update(first, jax.random.key(3))
    for name in ("policy", "values"):
        moved = jax.tree.map(
            lambda a, b: np.all(a != b), getattr(second, name), getattr(first, name)
        )
        assert all(jax.tree.leaves(moved)), name
    # The first policy that has learned replaces the one before in the average.
    same_leaves(second.average, second.policy)
    assert second.multiplier != first.multiplier
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((second, metrics)))
