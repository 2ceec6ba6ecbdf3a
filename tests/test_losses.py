import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.models import losses

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_silent_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield


def test_reachability_target_by_hand():
    h = jnp.array([-1.0, 25.0, -1.0, -1.0])
    next_value = jnp.array([3.0, -1.0, -5.0, 3.0])
    continues = jnp.array([1.0, 1.0, 1.0, 0.0])
    target = losses.reachability_target(h, next_value, continues, 0.9)
    # 0.1 * -1 + 0.9 * 3; h itself; h itself; h at the end.
    np.testing.assert_allclose(target, [2.6, 25.0, -1.0, -1.0], rtol=1e-6)


def test_reachability_target_of_a_lasting_violation_by_hand():
    h = jnp.array([-1.0, 25.0, 25.0])
    next_value = jnp.array([3.0, -1.0, 10.0])
    target = losses.reachability_target(h, next_value, jnp.ones(3), 0.9, 0.8)
    # The published backup at a safe state; 0.2 * 25, a violation of one step; 5 + 0.8 * 10.
    np.testing.assert_allclose(target, [2.6, 5.0, 13.0], rtol=1e-6)


def test_a_violation_counts_more_the_longer_it_lasts_and_always_above_zero():
    value, values = jnp.array([-1.0]), []
    for _ in range(40):
        value = losses.reachability_target(
            jnp.array([25.0]), value, jnp.ones(1), 0.99, violation_discount=0.9
        )
        values.append(float(value[0]))
    assert values[0] == pytest.approx(2.5) and np.all(np.diff(values) > 0) and values[-1] < 25.0


def test_n_step_target_by_hand():
    reward = jnp.array([[1.0, 2.0, 4.0], [1.0, 2.0, 9.0], [1.0, 2.0, 9.0]])
    valid = jnp.array([[True, True, True], [True, True, False], [True, True, False]])
    value, continues = jnp.full(3, 16.0), jnp.array([1.0, 1.0, 0.0])
    found = losses.n_step_target(reward, valid, value, continues, 0.5)
    # 1 + 2 / 2 + 4 / 4 + 16 / 8; a trajectory cut after two steps, 1 + 1 + 16 / 4; one that ends.
    np.testing.assert_allclose(found, [5.0, 6.0, 2.0])


def test_n_step_target_of_one_step_is_the_td_target():
    reward, value = RNG.normal(size=(2, 50)).astype(np.float32)
    continues = (RNG.uniform(size=50) < 0.5).astype(np.float32)
    found = losses.n_step_target(reward[:, None], np.ones((50, 1), bool), value, continues, 0.9)
    np.testing.assert_allclose(found, reward + 0.9 * continues * value, rtol=1e-5, atol=1e-6)


def test_expectile_loss_by_hand():
    loss = losses.expectile_loss(jnp.array([2.0, -2.0, 0.0]), 0.9)
    np.testing.assert_allclose(loss, [3.6, 0.4, 0.0], rtol=1e-6)


def test_cross_entropy_of_an_even_guess_by_hand():
    loss = losses.weighted_cross_entropy(jnp.zeros(2), jnp.array([1.0, 0.0]), 3.0)
    np.testing.assert_allclose(loss, [3 * np.log(2), np.log(2)], rtol=1e-6)


def test_gaussian_nll_by_hand():
    loss = losses.gaussian_nll(jnp.array([2.0, 0.0]), jnp.array([0.0, np.log(4.0)]))
    np.testing.assert_allclose(loss, [2.0, np.log(2.0)], rtol=1e-6)


@pytest.mark.parametrize(
    ("vh", "qh", "outcome", "advantage", "weight"),
    [
        (1.0, 9.0, 0.5, 9.0, np.exp(5 * 0.5)),  # infeasible: by the feasibility advantage
        (1.0, -9.0, 1.5, 9.0, np.exp(5 * -0.5)),
        (9.0, 9.0, -9.0, 0.0, 150.0),  # and clipped
        (
            -1.0,
            -0.5,
            9.0,
            0.5,
            np.exp(3 * 0.5),
        ),  # feasible: by the reward advantage
        (0.0, 0.0, 9.0, -0.5, np.exp(3 * -0.5)),  # 0 counts as feasible
        (-1.0, -1.0, 9.0, 9.0, 100.0),
        (-1.0, 0.1, -9.0, 9.0, 0.0),  # feasible state, infeasible action
        (-1.0, -1.0, 9.0, -np.inf, 0.0),  # an action of unknown reward
    ],
)
def test_policy_weights_table(vh, qh, outcome, advantage, weight):
    found = losses.policy_weights(
        jnp.array([advantage]),
        jnp.array([qh]),
        jnp.array([vh]),
        jnp.array([outcome]),
        (3.0, 5.0),
        (100.0, 150.0),
    )
    np.testing.assert_allclose(found, [weight], rtol=1e-5)


def test_a_temperature_of_0_clones_actions_of_known_reward():
    safe, advantage = -jnp.ones(3), jnp.array([-2.0, 7.0, -jnp.inf])
    found = losses.policy_weights(advantage, safe, safe, safe, (0.0, 1.0), (20.0, 20.0))
    np.testing.assert_array_equal(found, [1.0, 1.0, 0.0])


def test_feasibility_backup_is_never_below_the_current_cost():
    h, value = RNG.normal(size=(2, 1000)) * 25
    continues = (RNG.uniform(size=1000) < 0.5).astype(np.float64)
    for discount in (0.01, 0.5, 0.999):
        target = losses.reachability_target(h, value, continues, discount)
        assert np.all(target >= h - 1e-4)


def test_feasibility_backup_is_the_current_cost_at_termination():
    h, value = RNG.normal(size=(2, 100)).astype(np.float32)
    np.testing.assert_array_equal(losses.reachability_target(h, value, np.zeros(100), 0.99), h)


def test_feasibility_backup_approaches_the_maximum_of_now_and_later_as_discount_approaches_1():
    h, value = RNG.normal(size=(2, 100))
    target = losses.reachability_target(h, value, np.ones(100), 1 - 1e-6)
    np.testing.assert_allclose(target, np.maximum(h, value), atol=1e-4)


def test_expectile_of_one_half_is_half_the_squared_error():
    error = RNG.normal(size=100)
    np.testing.assert_allclose(losses.expectile_loss(error, 0.5), 0.5 * error**2, rtol=1e-6)


def test_expectile_nears_maximum_and_minimum_at_its_limits():
    target = jnp.asarray(RNG.uniform(-1, 1, 200))
    grid = jnp.linspace(-1.2, 1.2, 2401)
    for expectile, limit in ((0.9999, target.max()), (0.0001, target.min())):
        total = jax.vmap(lambda v, e=expectile: losses.expectile_loss(target - v, e).sum())(grid)
        assert abs(grid[jnp.argmin(total)] - limit) < 0.02


def test_cross_entropy_stays_finite_for_any_logit():
    logits, target = jnp.array([1e4, -1e4, 1e4, -1e4]), jnp.array([1.0, 1.0, 0.0, 0.0])
    loss = losses.weighted_cross_entropy(logits, target, 3.0)
    np.testing.assert_allclose(loss, [0.0, 3e4, 1e4, 0.0])


@pytest.mark.slow
def test_batched_targets_and_weights_equal_each_row():
    a, b, c = (jnp.asarray(x, jnp.float32) for x in RNG.normal(size=(3, 20)))

    def both(a, b, c):
        target = losses.reachability_target(a, b, c, 0.9)
        return target, losses.policy_weights(a, b, c, -b, (3.0, 5.0), (100.0, 150.0))

    for batched, rows in zip(both(a, b, c), jax.vmap(both)(a, b, c), strict=True):
        np.testing.assert_allclose(batched, rows, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_targets_and_weights_carry_no_gradient(argument):
    inputs = [jnp.array([0.3, -0.2]), jnp.array([-0.5, 0.1]), jnp.array([1.0, -1.0])]

    def total(x):
        a, b, c = [*inputs[:argument], x, *inputs[argument + 1 :]]
        reach = losses.reachability_target(a, b, c, 0.9).sum()
        valid = jnp.ones((2, 1), bool)
        td = losses.n_step_target(a[:, None], valid, b, c, 0.9).sum()
        return reach + td + losses.policy_weights(a, b, c, -b, (3.0, 5.0), (1e2, 1e2)).sum()

    np.testing.assert_array_equal(jax.grad(total)(inputs[argument]), 0.0)


def test_arrays_of_different_shapes_are_rejected():
    one, column = jnp.zeros(3), jnp.zeros((3, 1))
    with pytest.raises(AssertionError):
        losses.reachability_target(one, column, one, 0.9)
    with pytest.raises(AssertionError):
        losses.n_step_target(column, jnp.ones((3, 1), bool), one, column, 0.9)
    with pytest.raises(AssertionError):
        losses.n_step_target(column, jnp.ones(3, bool), one, one, 0.9)
    with pytest.raises(AssertionError):
        losses.policy_weights(one, one, one, column, (1.0, 1.0), (1.0, 1.0))
    with pytest.raises(AssertionError):
        losses.weighted_cross_entropy(one, column, 1.0)
    with pytest.raises(AssertionError):
        losses.gaussian_nll(one, column)


def test_values_fitted_to_the_lower_expectile_lie_below_the_mean():
    target = jnp.asarray(RNG.normal(size=500))
    gradient = jax.grad(lambda v: losses.expectile_loss(target - v, 0.1).mean())
    assert gradient(target.mean()) > 0
    chex.assert_tree_all_finite(gradient(target.mean()))


def test_robust_square_by_hand():
    error = jnp.array([0.0, -1.0, 2.0, -5.0])
    # Squares up to 2, then the tangent 4 |e| - 4.
    np.testing.assert_allclose(losses.robust_square(error, 2.0), [0, 1, 4, 16])


def test_robust_square_has_a_bounded_slope():
    slope = jax.vmap(jax.grad(lambda e: losses.robust_square(e, 2.0)))(jnp.array([-9.0, 1.0, 1e6]))
    np.testing.assert_allclose(slope, [-4, 2, 4])
