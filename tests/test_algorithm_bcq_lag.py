import dataclasses

import jax
import jax.numpy as jnp
import lagrangian_laws as laws
import numpy as np
import pytest
from core_toys import drawn
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

from proco_jax.algorithms import bcq_lag, lagrangian, make_algorithm
from proco_jax.models import vae
from proco_jax.types import Transition

CONFIG = small_config("bcq_lag")
SETTINGS, PUBLISHED = CONFIG.bcq_lag, dataclasses.replace(CONFIG.bcq_lag, as_published=True)
ALGORITHM = make_algorithm("bcq_lag", CONFIG, TASK)
AS_PUBLISHED = make_algorithm("bcq_lag", small_config("bcq_lag", as_published=True), TASK)
NETS = bcq_lag.make_networks(CONFIG, TASK)
UPDATE, UPDATE_PUBLISHED = jax.jit(ALGORITHM.update), jax.jit(AS_PUBLISHED.update)
CASE = laws.Case(ALGORITHM, AS_PUBLISHED, NETS, SETTINGS.samples, UPDATE, UPDATE_PUBLISHED)
LIMIT = jnp.float32(0.5)


@pytest.fixture(scope="module")
def state() -> bcq_lag.State:
    return jax.jit(ALGORITHM.init)(jax.random.key(0), ALGORITHM.hyper)


def updated(state, batch, update=UPDATE, hyper=ALGORITHM.hyper):
    return update(jax.random.key(1), hyper, state, batch)


def known_networks(decoded: float = 0.0, shift: float = 1.0) -> bcq_lag.Networks:
    """Q = obs_0 + a_0 and Q_c = obs_1 - 2 a_0, their heads 0 to 3 more; a known proposal."""

    def heads(value):
        return Known(lambda o, a: value(o, a)[..., None] + jnp.arange(4.0))

    vae_nets = vae.Networks(
        dataclasses.replace(NETS.vae.posterior),
        Known(lambda o, z: jnp.full((*o.shape[:-1], ACTIONS), decoded)),  # pyright: ignore
    )
    return bcq_lag.Networks(
        q=heads(lambda o, a: o[..., 0] + a[..., 0]),  # pyright: ignore
        qc=heads(lambda o, a: o[..., 1] - 2.0 * a[..., 0]),  # pyright: ignore
        vae=vae_nets,
        policy=Known(lambda o, a: jnp.full(a.shape, shift)),  # pyright: ignore
    )


EMPTY = {"q": None, "qc": None, "policy": None, "vae": {"posterior": None, "decoder": None}}


def two_rows() -> Transition:
    """A logged row and an imagined one."""
    obs = jnp.array([[1.0, 3.0, 0.0], [50.0, 5.0, 0.0]])
    action = jnp.zeros((2, ACTIONS))
    return make_rows(obs, action, [2.0, 2.0], [1.0, 0.0], imagined=jnp.array([False, True]))


@pytest.mark.parametrize(("as_published", "qc_head"), [(False, 3.0), (True, 0.0)])
def test_policy_loss_by_hand(as_published, qc_head):
    hyper = ALGORITHM.hyper
    settings = PUBLISHED if as_published else SETTINGS
    loss, (pid, metrics) = bcq_lag.policy_loss(
        *(hyper, settings, known_networks(), EMPTY, None, lagrangian.initial_pid(), LIMIT),
        *(two_rows(), jax.random.key(0)),
    )
    # The action is 0.05, the shift. Q = 1 + 0.05 in the logged row, with its smallest head;
    # Q_c = 3 - 0.1 and 5 - 0.1, with its largest head or, published, its smallest.
    excess = 4.0 - 0.1 + qc_head - 0.5
    multiplier = (0.1 + 0.003 + 0.001) * excess
    assert float(metrics["bcq_lag/excess_cost"]) == pytest.approx(excess)
    assert float(pid.multiplier) == pytest.approx(multiplier, rel=1e-5)
    assert float(loss) == pytest.approx(-1.05 + multiplier * excess, rel=1e-5)


@pytest.mark.parametrize(("as_published", "qc"), [(False, 0.75 * 3 + 0.25), (True, 0.25 * 2)])
def test_critic_targets_by_hand(as_published, qc):
    settings = PUBLISHED if as_published else SETTINGS
    own = dataclasses.replace(blank(), params=EMPTY, targets=EMPTY)
    batch = two_rows()._replace(discount=jnp.array([0.0, 1.0]))
    target_q, target_qc = bcq_lag.critic_targets(
        *(ALGORITHM.hyper, settings, known_networks(), own, EMPTY["vae"], batch),
        jax.random.key(0),
    )
    # All proposals are 0.05. Heads 0 to 3 in two groups: 0.75 * 0 + 0.25 * 2 for rewards.
    q = 50.0 + 0.05 + 0.25 * 2
    np.testing.assert_allclose(target_q, [0.2, 0.2 + 0.99 * q], rtol=1e-5)
    ended = 1.0 + (0.99 * (3.0 - 0.1 + qc) if as_published else 0.0)
    np.testing.assert_allclose(target_qc, [ended, 0.99 * (5.0 - 0.1 + qc)], rtol=1e-5)


def blank() -> bcq_lag.State:
    return bcq_lag.State({}, {}, {}, lagrangian.initial_pid())  # pyright: ignore


def test_a_proposal_is_shifted_by_the_perturbation_and_stays_in_range():
    for decoded, shift, expected in ((0.0, -1.0, -0.05), (9.0, 1.0, 1.0)):
        nets = known_networks(decoded, shift)
        given = (ALGORITHM.hyper, nets, EMPTY, None, jnp.zeros(SIZE), jax.random.key(0), 3)
        found = bcq_lag.propose(*given)
        assert found.shape == (3, ACTIONS)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_each_term_of_the_policy_loss_moves_the_policy(state):
    batch, params = random_rows(), state.params

    @jax.jit
    def gradient(policy, limit, weight, imagined):
        rows = batch._replace(weight=weight, imagined=imagined)

        def loss(own):
            return bcq_lag.policy_loss(
                *(ALGORITHM.hyper, SETTINGS, NETS, params, own),
                *(state.pid, limit, rows, jax.random.key(2)),
            )[0]

        return jax.grad(loss)(policy)

    ones, high, low = jnp.ones(10), jnp.float32(1e6), jnp.float32(-1e3)
    none, all_ = jnp.zeros(10, bool), jnp.ones(10, bool)
    policy = params["policy"]
    # Rewards alone: the limit is far. Costs alone: no row is logged. Neither.
    assert nonzero(gradient(policy, high, ones, none))
    assert nonzero(gradient(policy, low, ones, all_))
    assert not nonzero(gradient(policy, high, ones, all_))
    assert not nonzero(gradient(policy, low, 0 * ones, none))


@pytest.mark.slow
def test_rewards_move_the_reward_critic_and_costs_the_cost_critic(state):
    laws.rewards_move_the_reward_critic_and_costs_the_cost_critic(CASE, state)


def test_no_other_loss_moves_through_the_policy(state):
    laws.no_other_loss_moves_through_the_policy(CASE, state)


def test_imagined_rows_reach_the_cost_critic_and_the_policy_alone(state):
    laws.imagined_rows_reach_the_cost_critic_and_the_policy_alone(CASE, state)


def test_rows_of_weight_zero_do_not_count(state):
    check_rows_of_weight_zero(updated, state)


def test_targets_are_moving_averages(state):
    new, _ = updated(state, random_rows())
    for name, target in new.targets.items():
        trees = (state.targets[name], new.params[name], target)
        for old, now, got in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_allclose(got, 0.995 * old + 0.005 * now, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("as_published", [False, True])
def test_on_costs_of_zero_it_is_plain_bcq(state, as_published):
    laws.on_costs_of_zero_the_multiplier_does_not_matter(CASE, state, as_published)


def test_published_cost_backups_pass_terminations_and_ours_do_not(state):
    laws.published_cost_backups_pass_terminations_and_ours_do_not(CASE, state)


@pytest.mark.slow
def test_it_proposes_different_actions_and_executes_the_best_of_them(state):
    laws.it_proposes_different_actions_and_executes_the_best_of_them(CASE, state)


def test_batched_actions_equal_single_ones(state):
    obs = jax.random.normal(jax.random.key(4), (3, SIZE))
    own = drawn(jax.eval_shape(lambda: state.params))

    def propose(o):
        return bcq_lag.propose(
            *(ALGORITHM.hyper, NETS, own, own["policy"], o, jax.random.key(5), 1)
        )

    found = propose(obs)
    assert found.shape == (3, 1, ACTIONS)
    assert propose(obs[0]).shape == (1, ACTIONS)


def test_without_rings_the_networks_are_plain_mlps(state):
    shapes = {
        name: sorted(x.shape for x in jax.tree.leaves(state.params[name]) if x.ndim == 2)
        for name in ("q", "policy")
    }
    # Observation, and action with its saturation: 3 + 4 inputs, 8, 8, then four heads, or actions.
    assert shapes["q"] == sorted([(7, 8), *[(8, 8), (8, 1)] * 4])
    assert shapes["policy"] == sorted([(7, 8), (8, 8), (8, 2)])


@pytest.mark.slow
def test_it_finds_the_best_action_with_and_without_constraint():
    own = {"learning_rate": 3e-3, "perturbation": 1.0, "reward_scale": 1.0}
    config = small_config("bcq_lag", hidden=(32,), **own)
    laws.it_finds_the_best_action_with_and_without_constraint(
        make_algorithm("bcq_lag", config, BANDIT)
    )
