import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import same_leaves
from value_toys import (
    ACTIONS,
    BANDIT,
    SIZE,
    TASK,
    Known,
    bandit_learner,
    check_proposals,
    check_rows_of_weight_zero,
    make_rows,
    moved,
    moved_parts,
    nonzero,
    random_rows,
    small_config,
    with_hyper,
    with_part,
)

from proco_jax.algorithms import cpq, make_algorithm
from proco_jax.algorithms.temporal_difference import squared_error
from proco_jax.models import squashed_gaussian, vae
from proco_jax.types import Transition

CONFIG = small_config("cpq")
SETTINGS, PUBLISHED = CONFIG.cpq, dataclasses.replace(CONFIG.cpq, as_published=True)
ALGORITHM = make_algorithm("cpq", CONFIG, TASK)
AS_PUBLISHED = make_algorithm("cpq", small_config("cpq", as_published=True), TASK)
NETS = cpq.make_networks(CONFIG, TASK)
UPDATE, UPDATE_PUBLISHED = jax.jit(ALGORITHM.update), jax.jit(AS_PUBLISHED.update)
LIMIT = jnp.float32(0.5)
EMPTY = {"q": None, "qc": None, "policy": None, "vae": {"posterior": None, "decoder": None}}


@pytest.fixture(scope="module")
def state() -> cpq.State:
    return jax.jit(ALGORITHM.init)(jax.random.key(0), ALGORITHM.hyper)


def updated(state, batch, update=UPDATE, hyper=ALGORITHM.hyper):
    return update(jax.random.key(1), hyper, state, batch)


def known_networks(mean: float = 0.0, log_std: float = -20.0) -> cpq.Networks:
    """Q = obs_0 + a_0 and Q_c = obs_1 + a_0, the second head 1 more; the VAE's KL is 2 a_0^2."""

    def heads(value):
        return Known(lambda o, a: value(o, a)[..., None] + jnp.arange(2.0))

    def gaussian(o):
        shape = (*o.shape[:-1], ACTIONS)
        return jnp.full(shape, mean), jnp.full(shape, log_std)

    posterior = Known(lambda o, a: (2.0 * a[..., :1], 0.0 * a[..., :1]))
    return cpq.Networks(
        q=heads(lambda o, a: o[..., 0] + a[..., 0]),  # pyright: ignore
        qc=heads(lambda o, a: o[..., 1] + a[..., 0]),  # pyright: ignore
        vae=vae.Networks(posterior, NETS.vae.decoder),  # pyright: ignore
        policy=Known(gaussian),  # pyright: ignore
    )


def two_rows() -> Transition:
    """A logged row below the limit with both heads, and an imagined one below it with one."""
    obs = jnp.array([[1.0, -1.0, 0.0], [50.0, 0.2, 0.0]])
    action = jnp.zeros((2, ACTIONS))
    return make_rows(obs, action, [2.0, 2.0], [1.0, 0.0], imagined=jnp.array([False, True]))


def test_critic_targets_by_hand():
    nets, given = known_networks(), (EMPTY, LIMIT)
    batch = two_rows()
    action = jnp.full((2, ACTIONS), 0.1)
    q, qc = cpq.critic_targets(ALGORITHM.hyper, SETTINGS, nets, *given, batch, action)
    # Larger heads of Q_c: 0.1, and 1.3 over the limit of 0.5, which ends the reward's backup.
    np.testing.assert_allclose(q, [0.2 + 0.99 * 1.1, 0.2], rtol=1e-5)
    np.testing.assert_allclose(qc, [1.0 + 0.99 * 0.1, 0.99 * 1.3], rtol=1e-5)
    # Published: the smaller head, -0.9 and 0.3, leaves the gate open.
    q, qc = cpq.critic_targets(ALGORITHM.hyper, PUBLISHED, nets, *given, batch, action)
    np.testing.assert_allclose(q, [0.2 + 0.99 * 1.1, 0.2 + 0.99 * 50.1], rtol=1e-5)
    np.testing.assert_allclose(qc, [1.0 - 0.99 * 0.9, 0.99 * 0.3], rtol=1e-5)


def test_a_termination_stops_both_backups_and_published_that_of_the_reward_alone():
    nets, batch = known_networks(), two_rows()._replace(discount=jnp.zeros(2))
    given = (nets, EMPTY, LIMIT, batch, jnp.full((2, ACTIONS), 0.1))
    q, qc = cpq.critic_targets(ALGORITHM.hyper, SETTINGS, *given)
    np.testing.assert_allclose(q, [0.2, 0.2], rtol=1e-5)
    np.testing.assert_allclose(qc, [1.0, 0.0], rtol=1e-5)
    q, qc = cpq.critic_targets(ALGORITHM.hyper, PUBLISHED, *given)
    np.testing.assert_allclose(q, [0.2, 0.2], rtol=1e-5)
    np.testing.assert_allclose(qc, [1.0 - 0.99 * 0.9, 0.99 * 0.3], rtol=1e-5)


def test_policy_loss_by_hand():
    nets, weight = known_networks(mean=np.arctanh(0.1)), float(ALGORITHM.hyper.violation_weight)
    # Open in the first row: -Q = -1.1. Closed in the second: Q_c = 0.2 + 0.1 + 1.
    ours, theirs = (-1.1 + weight * 1.3) / 2.0, -(1.1 + 50.1) / 2.0
    for settings, expected, gate in ((SETTINGS, ours, 0.5), (PUBLISHED, theirs, 1.0)):
        given = (settings, nets, EMPTY, None, LIMIT, two_rows(), jax.random.key(0))
        loss, metrics = cpq.policy_loss(ALGORITHM.hyper, *given)
        assert float(loss) == pytest.approx(expected, rel=1e-4)
        assert float(metrics["cpq/gate_open"]) == gate


def test_td_loss_by_hand():
    heads, target = jnp.array([[1.0, 3.0], [9.0, 9.0]]), jnp.array([2.0, 0.0])
    assert float(squared_error(heads, target, jnp.array([1.0, 0.0]))) == 2.0


def rows_of_zeros(count: int) -> Transition:
    nothing = jnp.zeros(count)
    return make_rows(jnp.zeros((count, SIZE)), jnp.zeros((count, ACTIONS)), nothing, nothing)


def pushes(settings, batch, nets=None, limit=LIMIT) -> tuple[float, float]:
    push, gap = cpq.push_loss(
        *(ALGORITHM.hyper, settings, nets or known_networks(0.0, 1.0), EMPTY, None),
        *(limit, batch, jax.random.key(7)),
    )
    return float(push), float(gap)


@pytest.mark.slow
def test_actions_rarer_than_the_logged_ones_are_pushed_up_to_the_target():
    # Logged: actions up to 0.5, evenly. The policy's are all tanh(1) = 0.76, or all 0.3.
    batch = rows_of_zeros(101)
    batch = batch._replace(action=batch.action.at[:, 0].set(jnp.linspace(0.0, 0.5, 101)))
    rare, usual = known_networks(1.0), known_networks(np.arctanh(0.3))
    # Both heads are pushed: Q_c = 0.76 + 0.5 on average, the target is 1.5 times the limit.
    for limit in (0.5, 2.0):
        gap = 1.5 * limit - np.tanh(1.0) - 0.5
        found = pushes(SETTINGS, batch, rare, jnp.float32(limit))
        np.testing.assert_allclose(found, [max(gap, 0.0), gap], rtol=1e-4)
    assert pushes(SETTINGS, batch, usual) == (0.0, 0.0)


@pytest.mark.slow
def test_published_the_rarest_quarter_of_the_policys_actions_is_pushed_without_bound():
    settings = dataclasses.replace(PUBLISHED, samples=50)
    batch = rows_of_zeros(4)._replace(imagined=jnp.array([False, False, False, True]))
    policy: Any = known_networks(0.0, 1.0).policy
    raw = squashed_gaussian.sample(policy, None, batch.obs, jax.random.key(7), 50)
    # Before the tanh, actions may be beyond their range. The smaller head is taken.
    action = np.asarray(raw)[:3, :, 0].ravel()
    assert np.abs(action).max() > 1.0
    rarest = np.abs(action) >= np.quantile(np.abs(action), 0.75)
    # The mean is over all actions, of which those that are not rare count as 0.
    gap = 1.5 * 0.5 - action[rarest].sum() / len(action)
    np.testing.assert_allclose(pushes(settings, batch), [gap, gap], rtol=1e-4)
    low = pushes(settings, batch, limit=jnp.float32(-9.0))
    assert low[0] < 0.0


@pytest.mark.slow
def test_imagined_states_have_no_rare_actions():
    batch = two_rows()
    far = batch._replace(obs=batch.obs.at[1].add(9.0))
    assert pushes(SETTINGS, batch) == pushes(SETTINGS, far)
    assert pushes(SETTINGS, batch)[1] != 0.0
    nothing = batch._replace(imagined=jnp.ones(2, bool))
    assert pushes(SETTINGS, nothing) == (0.0, 0.0) == pushes(PUBLISHED, nothing)


@pytest.mark.slow
def test_the_push_moves_the_cost_critic_and_published_it_does_not(state):
    batch = random_rows()
    for update, moves in ((UPDATE, True), (UPDATE_PUBLISHED, False)):
        # A weight of exp(-inf) = 0 removes the push.
        calm = dataclasses.replace(state, log_alpha=jnp.float32(-jnp.inf))
        pushed, off = updated(state, batch, update)[0], updated(calm, batch, update)[0]
        assert moved_parts(pushed, off) - {"policy"} == ({"qc"} if moves else set())


@pytest.mark.slow
def test_the_push_raises_rare_actions(state):
    batch = random_rows()

    def push(qc):
        given = (ALGORITHM.hyper, SETTINGS, NETS, state.params, qc, jnp.float32(9.0), batch)
        return cpq.push_loss(*given, jax.random.key(8))[0]

    gradient = jax.jit(jax.grad(push))(state.params["qc"])
    assert nonzero(gradient)
    up = jax.tree.map(lambda x, g: x - 1e-2 * g, state.params["qc"], gradient)
    assert float(push(up)) < float(push(state.params["qc"]))


def test_the_weight_of_the_push_falls_above_its_target_and_stays_in_range(state):
    batch = random_rows()
    for limit, sign in ((1e3, 1.0), (-1e3, -1.0)):
        hyper = with_hyper(ALGORITHM, cost_limit=limit).hyper
        new, _ = updated(state, batch, hyper=hyper)
        # Cost values are about 0, so that the gap is the target.
        assert float(new.log_alpha) == pytest.approx(1e-4 * 1.5 * limit, rel=1e-2)
        far = dataclasses.replace(state, log_alpha=jnp.float32(5.0 * sign))
        found, _ = updated(far, batch, hyper=hyper)
        assert float(found.log_alpha) == 5.0 if sign > 0 else -5.0


def test_each_term_of_the_policy_loss_moves_the_policy(state):
    batch = random_rows()

    def loss(policy, settings, limit):
        given = (state.params, policy, limit, batch, jax.random.key(2))
        return cpq.policy_loss(ALGORITHM.hyper, settings, NETS, *given)[0]

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    frozen = [Hashable(s) for s in (SETTINGS, PUBLISHED)]
    policy, high, low = state.params["policy"], jnp.float32(1e6), jnp.float32(-1e6)
    # Every gate is open: rewards alone. Every gate is closed: costs alone, or nothing.
    assert nonzero(gradient(policy, frozen[0], high)) and nonzero(gradient(policy, frozen[0], low))
    assert nonzero(gradient(policy, frozen[1], high))
    assert not nonzero(gradient(policy, frozen[1], low))


class Hashable:
    """Settings as a static argument."""

    def __init__(self, settings) -> None:
        self.as_published, self.samples = settings.as_published, settings.samples


def test_rewards_move_the_reward_critic_and_costs_the_cost_critic(state):
    batch = random_rows()
    open_gate = with_hyper(ALGORITHM, cost_limit=1e6).hyper
    calm = dataclasses.replace(state, log_alpha=jnp.float32(-jnp.inf))
    usual, _ = updated(calm, batch, hyper=open_gate)
    richer, _ = updated(calm, batch._replace(reward=batch.reward + 1.0), hyper=open_gate)
    costly, _ = updated(calm, batch._replace(cost=batch.cost + 1.0), hyper=open_gate)
    assert moved_parts(usual, richer) <= {"q", "policy"} and "q" in moved_parts(usual, richer)
    assert moved_parts(usual, costly) == {"qc"}
    assert moved_parts(state, usual) == {"q", "qc", "vae", "policy"}


def test_imagined_rows_reach_critics_and_policy_and_not_the_vae(state):
    batch = random_rows()
    usual, _ = updated(state, batch)
    changed = jnp.where(batch.imagined[:, None], -batch.action, batch.action)
    found, _ = updated(state, batch._replace(action=changed))
    assert moved_parts(usual, found) >= {"q", "qc"} and "vae" not in moved_parts(usual, found)
    # Imagined rows are known by a mask, not by their position.
    alone = batch._replace(imagined=jnp.ones_like(batch.imagined))
    found, _ = updated(state, alone)
    assert moved_parts(state, found) == {"q", "qc", "policy"}


def test_rows_of_weight_zero_do_not_count(state):
    check_rows_of_weight_zero(updated, state)


def test_the_policy_does_not_reach_the_vae(state):
    batch, other = random_rows(), with_part(state, "policy")
    assert "vae" not in moved_parts(updated(state, batch)[0], updated(other, batch)[0])


@pytest.mark.parametrize("as_published", [False, True])
def test_on_costs_of_zero_the_gate_is_open_and_it_is_plain_actor_critic(state, as_published):
    """As long as the push does not close it, which the published one never does."""
    update = UPDATE_PUBLISHED if as_published else UPDATE
    batch = random_rows()
    batch = batch._replace(cost=jnp.zeros_like(batch.cost))
    small = jax.tree.map(lambda x: 0.01 * x, (state.params["qc"], state.targets["qc"]))
    log_alpha = state.log_alpha if as_published else jnp.float32(-jnp.inf)
    ours = plain = dataclasses.replace(
        state,
        params=state.params | {"qc": small[0]},
        targets=state.targets | {"qc": small[1]},
        log_alpha=log_alpha,
    )
    ungated = with_hyper(ALGORITHM, cost_limit=1e6).hyper
    for _ in range(5):
        ours, metrics = updated(ours, batch, update)
        plain, _ = updated(plain, batch, update, ungated)
        assert float(metrics["cpq/gate_open"]) == 1.0
        same_leaves(
            [ours.params[n] for n in ("q", "vae", "policy")],
            [plain.params[n] for n in ("q", "vae", "policy")],
        )


def test_targets_are_moving_averages_and_networks_have_rates_of_their_own(state):
    new, _ = updated(state, random_rows())
    for name, target in new.targets.items():
        trees = (state.targets[name], new.params[name], target)
        for old, now, got in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_allclose(got, 0.995 * old + 0.005 * now, atol=1e-6)
    # Adam's first step has the length of the rate.
    for name, rate in (("q", 1e-3), ("policy", 1e-4)):
        trees = (state.params[name], new.params[name])
        pairs = zip(*map(jax.tree.leaves, trees), strict=True)
        assert max(float(jnp.max(jnp.abs(b - a))) for a, b in pairs) == pytest.approx(rate, rel=0.1)


def test_it_proposes_samples_and_executes_the_mean(state):
    check_proposals(ALGORITHM, state)
    obs = jnp.full(SIZE, 0.3)
    given = (jax.random.key(4), ALGORITHM.hyper, state, (), obs, None)
    mean = squashed_gaussian.mean_action(NETS.policy, state.params["policy"], obs)
    np.testing.assert_array_equal(ALGORITHM.act(*given)[0], mean)  # pyright: ignore
    assert not moved(ALGORITHM.act(*given)[0], AS_PUBLISHED.act(*given)[0])  # pyright: ignore


@pytest.mark.slow
def test_it_finds_the_best_action_with_and_without_constraint():
    own = {"learning_rate": 3e-3, "policy_learning_rate": 3e-3, "reward_scale": 1.0}
    algorithm = make_algorithm("cpq", small_config("cpq", hidden=(32,), **own), BANDIT)
    # All actions are logged alike, so that none is rare: no push.
    learn = bandit_learner(
        algorithm, 2000, lambda s: dataclasses.replace(s, log_alpha=jnp.float32(-jnp.inf))
    )
    for costs, best in ((False, 0.8), (True, 0.2)):
        _, actions = learn(costs)
        assert actions.mean() == pytest.approx(best, abs=0.1)
        np.testing.assert_allclose(actions, best, atol=0.2)
