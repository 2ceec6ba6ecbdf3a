import dataclasses

import jax
import jax.numpy as jnp
import lagrangian_laws as laws
import numpy as np
import pytest
from value_toys import (
    ACTIONS,
    BANDIT,
    SIZE,
    TASK,
    Known,
    check_rows_of_weight_zero,
    make_rows,
    nonzero,
    random_rows,
    small_config,
)

from proco_jax.algorithms import bear_lag, lagrangian, make_algorithm
from proco_jax.models import squashed_gaussian, vae
from proco_jax.types import Transition

CONFIG = small_config("bear_lag")
SETTINGS, PUBLISHED = CONFIG.bear_lag, dataclasses.replace(CONFIG.bear_lag, as_published=True)
ALGORITHM = make_algorithm("bear_lag", CONFIG, TASK)
AS_PUBLISHED = make_algorithm("bear_lag", small_config("bear_lag", as_published=True), TASK)
NETS = bear_lag.make_networks(CONFIG, TASK)
UPDATE, UPDATE_PUBLISHED = jax.jit(ALGORITHM.update), jax.jit(AS_PUBLISHED.update)
CASE = laws.Case(ALGORITHM, AS_PUBLISHED, NETS, SETTINGS.samples, UPDATE, UPDATE_PUBLISHED)
LIMIT = jnp.float32(0.5)
EMPTY = {"q": None, "qc": None, "policy": None, "vae": {"posterior": None, "decoder": None}}


@pytest.fixture(scope="module")
def state() -> bear_lag.State:
    return jax.jit(ALGORITHM.init)(jax.random.key(0), ALGORITHM.hyper)


def updated(state, batch, update=UPDATE, hyper=ALGORITHM.hyper):
    return update(jax.random.key(1), hyper, state, batch)


def known_networks(ours: float = 0.0, theirs: float = 0.0) -> bear_lag.Networks:
    """Q = obs_0 + a_0 and Q_c = obs_1 - 2 a_0, their heads 0 to 3 more; actions without spread.

    Before the tanh, the policy's are `ours` and the VAE's `theirs`.
    """

    def heads(value):
        return Known(lambda o, a: value(o, a)[..., None] + jnp.arange(4.0))

    def gaussian(o):
        shape = (*o.shape[:-1], ACTIONS)
        return jnp.full(shape, ours), jnp.full(shape, -20.0)

    decoder = Known(lambda o, z: jnp.full((*o.shape[:-1], ACTIONS), theirs))
    return bear_lag.Networks(
        q=heads(lambda o, a: o[..., 0] + a[..., 0]),  # pyright: ignore
        qc=heads(lambda o, a: o[..., 1] - 2.0 * a[..., 0]),  # pyright: ignore
        vae=vae.Networks(NETS.vae.posterior, decoder),  # pyright: ignore
        policy=Known(gaussian),  # pyright: ignore
    )


def blank(log_alpha: float = 0.0) -> bear_lag.State:
    pid = lagrangian.initial_pid()
    return bear_lag.State(EMPTY, EMPTY, {}, jnp.float32(log_alpha), pid)


def two_rows() -> Transition:
    """A logged row and an imagined one."""
    obs = jnp.array([[1.0, 3.0, 0.0], [50.0, 5.0, 0.0]])
    action = jnp.zeros((2, ACTIONS))
    return make_rows(obs, action, [2.0, 2.0], [1.0, 0.0], imagined=jnp.array([False, True]))


def test_mmd_by_hand():
    x, y = jnp.array([[[0.0], [2.0]]]), jnp.array([[[1.0]]])
    # k(0, 2) = exp(-4 / 2), k(0, 1) = k(2, 1) = exp(-1 / 2), with a bandwidth of 1.
    square = (2.0 + 2.0 * np.exp(-2.0)) / 4.0 - 2.0 * np.exp(-0.5) + 1.0
    found = bear_lag.mmd(x, y, jnp.float32(1.0))
    np.testing.assert_allclose(found, [np.sqrt(square + 1e-6)], rtol=1e-5)


@pytest.mark.slow
def test_mmd_is_symmetric_and_almost_zero_for_the_same_samples():
    x, y = (jax.random.normal(jax.random.key(i), (5, 3, 2)) for i in range(2))
    b = jnp.float32(50.0)
    np.testing.assert_allclose(bear_lag.mmd(x, y, b), bear_lag.mmd(y, x, b), rtol=1e-3)
    np.testing.assert_allclose(bear_lag.mmd(x, x, b), 1e-3, atol=5e-4)
    rows = jnp.stack([bear_lag.mmd(x[i : i + 1], y[i : i + 1], b)[0] for i in range(5)])
    np.testing.assert_allclose(bear_lag.mmd(x, y, b), rows, rtol=1e-3)
    gradient = jax.grad(lambda a: jnp.sum(bear_lag.mmd(a, x, b)))(x)
    assert np.isfinite(np.asarray(gradient)).all()


@pytest.mark.parametrize(("as_published", "qc_head"), [(False, 3.0), (True, 0.0)])
def test_policy_loss_by_hand(as_published, qc_head):
    settings = PUBLISHED if as_published else SETTINGS
    nets, own = known_networks(ours=1.0, theirs=3.0), blank(log_alpha=1.0)
    loss, (log_alpha, pid, metrics) = bear_lag.policy_loss(
        *(ALGORITHM.hyper, settings, nets, own, None, LIMIT, two_rows(), jax.random.key(0)),
    )
    # Q = 1 + a in the logged row; Q_c = 3 - 2 a and 5 - 2 a.
    a = np.tanh(1.0)
    excess = 4.0 - 2.0 * a + qc_head - 0.5
    multiplier = (0.1 + 0.003 + 0.001) * excess
    # All samples of one kind are equal: 2 - 2 k, at a distance of 2 in each of two dimensions.
    far = np.sqrt(2.0 - 2.0 * np.exp(-8.0 / 100.0)) - 0.05
    assert float(metrics["bear_lag/excess_cost"]) == pytest.approx(excess, rel=1e-5)
    assert float(metrics["bear_lag/mmd"]) == pytest.approx(far + 0.05, rel=1e-4)
    assert float(pid.multiplier) == pytest.approx(multiplier, rel=1e-5)
    expected = -1.0 - a + np.e * far + multiplier * excess
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(log_alpha) == pytest.approx(1.0 + 1e-3 * np.e * far, rel=1e-5)


def test_log_alpha_stays_in_its_range():
    for start, ours, end in ((5.0, 3.0, 5.0), (-5.0, 0.0, -5.0)):
        found = bear_lag.policy_loss(
            *(ALGORITHM.hyper, SETTINGS, known_networks(ours), blank(start), None, LIMIT),
            *(two_rows(), jax.random.key(0)),
        )[1][0]
        assert float(found) == end


@pytest.mark.parametrize(("as_published", "qc"), [(False, 0.75 * 3 + 0.25), (True, 0.25 * 2)])
def test_critic_targets_by_hand(as_published, qc):
    settings = PUBLISHED if as_published else SETTINGS
    batch = two_rows()._replace(discount=jnp.array([0.0, 1.0]))
    target_q, target_qc = bear_lag.critic_targets(
        *(ALGORITHM.hyper, settings, known_networks(1.0), blank(), batch, jax.random.key(0)),
    )
    # All actions are tanh(1). Heads 0 to 3 in two groups: 0.75 * 0 + 0.25 * 2 for rewards.
    a = np.tanh(1.0)
    np.testing.assert_allclose(target_q, [0.2, 0.2 + 0.99 * (50.0 + a + 0.25 * 2)], rtol=1e-5)
    ended = 1.0 + (0.99 * (3.0 - 2 * a + qc) if as_published else 0.0)
    np.testing.assert_allclose(target_qc, [ended, 0.99 * (5.0 - 2 * a + qc)], rtol=1e-5)


def test_each_term_of_the_policy_loss_moves_the_policy(state):
    batch = random_rows()

    @jax.jit
    def gradient(policy, log_alpha, limit, reward_size, imagined):
        rows = batch._replace(imagined=imagined)
        q = jax.tree.map(lambda x: reward_size * x, state.params["q"])
        own = dataclasses.replace(
            state, params=state.params | {"q": q}, log_alpha=jnp.float32(log_alpha)
        )

        def loss(policy):
            return bear_lag.policy_loss(
                *(ALGORITHM.hyper, SETTINGS, NETS, own, policy),
                *(limit, rows, jax.random.key(2)),
            )[0]

        return jax.grad(loss)(policy)

    policy, none, all_ = state.params["policy"], jnp.zeros(10, bool), jnp.ones(10, bool)
    # exp(-inf) = 0 removes the MMD, Q = 0 the rewards, a far limit the costs.
    for given in (
        (-jnp.inf, 1e6, 1.0, none),
        (0.0, 1e6, 0.0, none),
        (-jnp.inf, -1e3, 0.0, none),
        (-jnp.inf, -1e3, 0.0, all_),
    ):
        assert nonzero(gradient(policy, *given)), given
    assert not nonzero(gradient(policy, -jnp.inf, 1e6, 0.0, none))
    # In imagined states neither rewards nor the MMD count.
    assert not nonzero(gradient(policy, 0.0, 1e6, 1.0, all_))


@pytest.mark.slow
def test_rewards_move_the_reward_critic_and_costs_the_cost_critic(state):
    laws.rewards_move_the_reward_critic_and_costs_the_cost_critic(CASE, state)


def test_no_other_loss_moves_through_the_policy(state):
    laws.no_other_loss_moves_through_the_policy(CASE, state)


def test_imagined_rows_reach_the_cost_critic_and_the_policy_alone(state):
    laws.imagined_rows_reach_the_cost_critic_and_the_policy_alone(CASE, state)


def test_rows_of_weight_zero_do_not_count(state):
    check_rows_of_weight_zero(updated, state)


@pytest.mark.slow
@pytest.mark.parametrize("as_published", [False, True])
def test_on_costs_of_zero_it_is_plain_bear(state, as_published):
    laws.on_costs_of_zero_the_multiplier_does_not_matter(CASE, state, as_published)


def test_published_cost_backups_pass_terminations_and_ours_do_not(state):
    laws.published_cost_backups_pass_terminations_and_ours_do_not(CASE, state)


@pytest.mark.slow
def test_it_executes_the_best_of_its_samples_or_as_published_the_mean(state):
    laws.it_proposes_different_actions_and_executes_the_best_of_them(CASE, state)
    obs = jnp.full(SIZE, 0.3)
    given = (jax.random.key(4), ALGORITHM.hyper, state, ALGORITHM.initial_carry(), obs, None)
    mean = squashed_gaussian.mean_action(NETS.policy, state.params["policy"], obs)
    np.testing.assert_array_equal(AS_PUBLISHED.act(*given)[0], mean)  # pyright: ignore


@pytest.mark.slow
def test_it_finds_the_best_action_with_and_without_constraint():
    # All actions are logged alike, so that the MMD need not bind.
    own = {"learning_rate": 3e-3, "reward_scale": 1.0, "mmd_target": 1.0}
    own["alpha_learning_rate"] = 0.05
    config = small_config("bear_lag", hidden=(32,), **own)
    laws.it_finds_the_best_action_with_and_without_constraint(
        make_algorithm("bear_lag", config, BANDIT)
    )


@pytest.mark.slow
def test_the_mmd_keeps_the_policy_near_the_logs():
    """All actions near -0.5, of which the largest earn most: the policy stays there."""
    own = {"learning_rate": 3e-3, "reward_scale": 0.01, "mmd_bandwidth": 0.1}
    algorithm = make_algorithm("bear_lag", small_config("bear_lag", **own), BANDIT)

    @jax.jit
    def learn(key):
        init_key, loop_key = jax.random.split(key)

        def step(state, key):
            obs_key, action_key, update_key = jax.random.split(key, 3)
            obs = jax.random.uniform(obs_key, (64, SIZE), minval=-1.0)
            action = -0.5 + 0.05 * jax.random.normal(action_key, (64, 1))
            batch = make_rows(obs, action, action[:, 0], jnp.zeros(64), discount=jnp.zeros(64))
            return algorithm.update(update_key, algorithm.hyper, state, batch)[0], None

        state = algorithm.init(init_key, algorithm.hyper)
        return jax.lax.scan(step, state, jax.random.split(loop_key, 1000))[0]

    state = learn(jax.random.key(0))
    nets = bear_lag.make_networks(small_config("bear_lag", **own), BANDIT)
    obs = jax.random.uniform(jax.random.key(1), (16, SIZE), minval=-1.0)
    found = squashed_gaussian.mean_action(nets.policy, state.params["policy"], obs)
    np.testing.assert_allclose(found, -0.5, atol=0.15)
