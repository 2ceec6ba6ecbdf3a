import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, SPEC, TASK, same_leaves, tiny_config, toy_program

from proco_jax.algorithms import bc, make_algorithm
from proco_jax.models.networks import GaussianPolicy, make_encoder
from proco_jax.types import NStep, Transition

CONFIG = tiny_config()
NET = GaussianPolicy(make_encoder(CONFIG.encoder, SPEC).clone(flat=True), CONFIG.bc.hidden, ACTIONS)
HYPER = bc.Hyper(jnp.float32(1e-2))
LOSS = jax.jit(
    lambda params, batch, safe_only: bc.cloning_loss(NET, params, batch, safe_only),
    static_argnums=2,
)
UPDATE = jax.jit(
    lambda hyper, state, batch, safe_only: bc.update(hyper, NET, state, batch, safe_only),
    static_argnums=3,
)


class FixedGaussian:
    """A policy of mean 0 and standard deviation 1 everywhere."""

    def apply(self, params, obs):
        zeros = jnp.zeros((*obs.shape[:-1], ACTIONS))
        return zeros, zeros


@pytest.fixture(scope="module")
def state() -> bc.State:
    return jax.jit(lambda k: bc.init(NET, k))(jax.random.key(0))


def rows(action, violation, imagined, weight=None) -> Transition:
    """Rows with these actions `[B, A]` and violations in a window of two steps `[B, 2]`."""
    action, violation = jnp.asarray(action, jnp.float32), jnp.asarray(violation)
    count = len(action)
    obs = jnp.asarray(np.random.default_rng(0).uniform(size=(count, SPEC.size)), jnp.float32)
    ones, zeros = jnp.ones(count), jnp.zeros(count)
    window = violation.astype(jnp.float32)
    steps = NStep(window, window, violation, jnp.ones(violation.shape, bool), obs, ones)
    weight = ones if weight is None else jnp.asarray(weight)
    mask = jnp.asarray(imagined)
    return Transition(obs, action, zeros, window[:, 0], obs, ones, obs, steps, weight, mask)


def four(action) -> Transition:
    """A safe logged row, logged rows that violate now and one step later, and an imagined row."""
    violation = [[False, False], [True, False], [False, True], [False, False]]
    return rows(action, violation, [False, False, False, True])


def test_loss_by_hand():
    net = FixedGaussian()
    batch = four([[1.0, 1.0], [2.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    # Negative log-likelihoods 1, 2 and 8 of the logged rows; the first alone is safe.
    assert float(bc.cloning_loss(net, None, batch, True)) == pytest.approx(1.0)  # pyright: ignore
    assert float(bc.cloning_loss(net, None, batch, False)) == pytest.approx(11 / 3)  # pyright: ignore


@pytest.mark.parametrize(("safe_only", "counts"), [(True, [1, 0, 0, 0]), (False, [1, 1, 1, 0])])
def test_the_rows_that_count_move_the_policy_and_no_others(state, safe_only, counts):
    action = jnp.full((4, ACTIONS), 0.3)
    gradient = jax.jit(jax.grad(lambda p, b: bc.cloning_loss(NET, p, b, safe_only)))
    usual = gradient(state.params, four(action))
    assert any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(usual))
    for row, count in enumerate(counts):
        found = gradient(state.params, four(action.at[row].set(-0.9)))
        if count:
            with pytest.raises(AssertionError):
                same_leaves(found, usual)
        else:
            same_leaves(found, usual)


def test_rows_of_weight_zero_do_not_count(state):
    action, safe = jnp.full((2, ACTIONS), 0.3), [[False, False]] * 2
    batch = rows(action, safe, [False, False], [1.0, 0.0])
    other = rows(action.at[1].set(-0.9), safe, [False, False], [1.0, 0.0])
    np.testing.assert_array_equal(LOSS(state.params, batch, True), LOSS(state.params, other, True))


def test_without_a_row_that_counts_the_loss_is_zero_and_finite(state):
    batch = rows(jnp.zeros((2, ACTIONS)), [[True, True], [False, False]], [False, True])
    assert float(LOSS(state.params, batch, True)) == 0.0


@pytest.mark.slow
def test_on_logs_without_violations_safe_only_changes_nothing(state):
    action = jax.random.uniform(jax.random.key(1), (6, ACTIONS), minval=-1.0)
    batch = rows(action, [[False, False]] * 6, [False] * 6)
    same_leaves(UPDATE(HYPER, state, batch, True), UPDATE(HYPER, state, batch, False))


@pytest.mark.slow
def test_policy_learns_the_logged_action(state):
    action = jnp.broadcast_to(jnp.array([0.5, -0.25]), (8, ACTIONS))
    batch = rows(action, [[False, False]] * 8, [False] * 8)

    @jax.jit
    def learn(s):
        return jax.lax.scan(lambda s, _: bc.update(HYPER, NET, s, batch, True), s, None, length=300)

    learned, metrics = learn(state)
    mean, _ = NET.apply(learned.params, batch.obs)
    np.testing.assert_allclose(mean, action, atol=0.05)
    assert float(metrics["bc/policy_loss"][-1]) < float(metrics["bc/policy_loss"][0])
    assert int(learned.step) == 300


def test_a_learning_rate_of_zero_changes_nothing(state):
    batch = rows(jnp.full((2, ACTIONS), 0.3), [[False, False]] * 2, [False, False])
    new, _ = UPDATE(bc.Hyper(jnp.float32(0.0)), state, batch, True)
    same_leaves(new.params, state.params)


def test_bc_has_no_critics_and_the_hyperparameters_of_its_config():
    algorithm = toy_program("bc", "none").algorithm
    assert algorithm.critics is None
    same_leaves(algorithm.hyper, bc.Hyper(jnp.float32(CONFIG.bc.learning_rate)))


def test_an_unknown_algorithm_is_rejected():
    with pytest.raises(ValueError, match=r"found 'bogus', expected one of .* or module:function"):
        make_algorithm("bogus", CONFIG, TASK)
    for name in ("no_such_module:make", "toy_algorithm:no_such_function"):
        with pytest.raises(ValueError, match="cannot import it"):
            make_algorithm(name, CONFIG, TASK)
    with pytest.raises(ValueError, match="SPEC is no function"):
        make_algorithm("core_toys:SPEC", CONFIG, TASK)


def test_an_error_inside_of_ones_own_algorithm_is_shown_as_it_is(monkeypatch):
    def make(config, task):
        raise AttributeError("a mistake in it")

    monkeypatch.setattr("toy_algorithm.make", make)
    with pytest.raises(AttributeError, match="a mistake in it"):
        make_algorithm("toy_algorithm:make", CONFIG, TASK)
