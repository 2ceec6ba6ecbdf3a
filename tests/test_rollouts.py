import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import SPEC, tiny_config, toy_cost_model, toy_dataset, toy_model, toy_normalizer

from proco_jax.augmentation import proco, rollouts
from proco_jax.augmentation.rollouts import (
    BEHAVIOR,
    NOWHERE,
    POLICY,
    RECOVERY,
    RISK,
    Imagined,
    RolloutModel,
)
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import RolloutConfig
from proco_jax.models import cost, dynamics
from proco_jax.models.dynamics import MeanPrediction

CONFIG = RolloutConfig(horizon=5, starts=6, candidates=4)
HYPER = hyper_from(CONFIG, rollouts.Hyper)


def move(obs, action):
    return obs + action


def line(limit: float = jnp.inf, edge: float = 2.0, step=move) -> RolloutModel:
    """A point on a line that an action moves; unsafe from `edge`.

    The disagreement is the position before the step, the reward ten times that.
    """

    def predict(obs, action):
        return MeanPrediction(step(obs, action), 10.0 * obs[..., 0], obs[..., 0])

    return RolloutModel(
        step=step,
        predict=predict,
        score=lambda obs: obs[..., 0],
        unsafe=lambda obs, disagreement: obs[..., 0] >= edge,
        limit=jnp.float32(limit),
    )


def stay(key, obs):
    return jnp.zeros_like(obs)


def walk(model: RolloutModel, start, plan, source=BEHAVIOR, policy=stay) -> Imagined:
    """One start `[]`, one plan `[H]` of a line."""
    return rollouts.imagine(
        model,
        policy,
        jnp.full((1, 1, 1), start),
        jnp.asarray(plan, jnp.float32).reshape(1, 1, -1, 1),
        jnp.full((1, 1), source),
        jax.random.key(0),
    )


def generate(config, hyper, model, policy, data, elites, key) -> Imagined:
    """A regeneration as one compiled program; the first transitions are risky."""

    @jax.jit
    def run(hyper, data, key):
        risky = jnp.arange(5)
        return rollouts.generate(config, hyper, model, policy, data, risky, elites, key)

    return run(hyper, data, key)


def three(unsafe, length, source=(RISK,)) -> Imagined:
    """Three trajectories of two steps."""
    return Imagined(
        obs=jnp.zeros((3, 3, 1)),
        action=jnp.zeros((3, 2, 1)),
        reward=jnp.zeros((3, 2)),
        unsafe=jnp.array(unsafe),
        length=jnp.array(length),
        source=jnp.broadcast_to(jnp.array(source), (3,)),
        origin=jnp.full(3, NOWHERE),
    )


def test_imagined_trajectory_by_hand():
    found = walk(line(), 0.0, [1, 1, 1])
    np.testing.assert_array_equal(found.obs[0, :, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(found.action[0, :, 0], [1, 1, 1])
    np.testing.assert_array_equal(found.reward[0], [0, 10, 20])
    # The label belongs to the next state.
    np.testing.assert_array_equal(found.unsafe[0], [False, True, True])
    assert int(found.length[0]) == 3


def test_labels_may_depend_on_the_disagreement():
    model = line()._replace(unsafe=lambda obs, disagreement: disagreement > 0.5)
    np.testing.assert_array_equal(walk(model, 0.0, [1, 1, -2]).unsafe[0], [False, True, True])


def test_imagined_trajectory_ends_where_disagreement_exceeds_the_limit():
    found = walk(line(limit=1.5), 0.0, [1, 1, 1, -3, 0])
    # Steps from 0 and 1 are within the limit, the one from 2 is not; a return does not help.
    assert int(found.length[0]) == 2


def test_states_that_are_not_finite_are_not_kept():
    model = line(step=lambda obs, action: jnp.where(obs > 0.5, jnp.nan, obs + action))
    found = walk(model, 0.0, [1, 1, 1])
    assert int(found.length[0]) == 1
    assert np.all(np.isfinite(found.obs)) and np.all(np.isfinite(found.reward))


def test_the_policy_acts_only_where_it_is_the_source():
    def back(key, obs):
        return -jnp.ones_like(obs)

    np.testing.assert_array_equal(walk(line(), 0.0, [1, 1], POLICY, back).action[0, :, 0], [-1, -1])
    for source in (RISK, BEHAVIOR, RECOVERY):
        np.testing.assert_array_equal(walk(line(), 0.0, [1, 1], source, back).action[0, :, 0], 1)


def test_violations_beyond_the_length_do_not_count():
    data = three([[True, False], [False, True], [False, True]], [1, 1, 2])
    np.testing.assert_array_equal(rollouts.violates(data), [True, False, True])


def test_summary_by_hand():
    data = three([[True, False], [False, False], [False, False]], [2, 2, 2], [RISK, RISK, POLICY])
    report = {k: float(v) for k, v in rollouts.summary(data).items()}
    assert report == pytest.approx(
        {
            "rollouts/length": 2.0,
            "rollouts/violating_share": 1 / 3,
            "rollouts/violating_share_risk": 0.5,
            "rollouts/violating_share_behavior": 0.0,
            "rollouts/violating_share_policy": 0.0,
            "rollouts/violating_share_recovery": 0.0,
        }
    )


@pytest.mark.parametrize(("sign", "extreme"), [(1.0, np.max), (-1.0, np.min)])
def test_extreme_actions_are_the_most_or_least_risky_of_the_candidates(sign, extreme):
    start = jnp.zeros((2, 6, 1))
    key = jax.random.key(1)
    chosen = rollouts.extreme_actions(CONFIG, HYPER, line(), start, 1, key, sign)
    assert chosen.shape == (2, 6, 5, 1)
    shape = (5, 2, 6, CONFIG.candidates, 1)
    plans = rollouts.persistent_actions(jax.random.clone(key), shape, CONFIG.persistence)
    # The largest score along each plan.
    worst = np.cumsum(plans[..., 0], axis=0).max(axis=0)
    found = np.cumsum(np.asarray(chosen)[..., 0], axis=2).max(axis=2)
    np.testing.assert_allclose(found, extreme(worst, axis=-1), atol=1e-5)


def test_persistent_actions_are_held_for_the_stated_mean_duration():
    held = np.asarray(rollouts.persistent_actions(jax.random.key(2), (400, 50, 1), 8.0))
    assert np.all(np.abs(held) <= 1.0)
    renewed = np.mean(held[1:] != held[:-1])
    assert renewed == pytest.approx(1 / 8, rel=0.1)
    fresh = np.asarray(rollouts.persistent_actions(jax.random.key(3), (50, 5, 1), 1.0))
    assert np.all(fresh[1:] != fresh[:-1])


def test_logged_actions_hold_the_last_one_of_an_episode():
    data = toy_dataset(2)
    ahead = rollouts.logged_actions(data, jnp.array([[0, 18, 19, 39]]), 4)
    action = np.asarray(data.action)
    expected = action[[[0, 1, 2, 3], [18, 19, 19, 19], [19] * 4, [39] * 4]]
    np.testing.assert_array_equal(ahead[0], expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_starts_come_from_the_risky_ones_with_the_stated_share(share):
    risky = jnp.array([100, 101])
    index = np.asarray(rollouts.sample_starts(jax.random.key(4), (4, 1000), 100_000, risky, share))
    assert index.min() >= 0 and index.max() < 100_000
    assert np.isin(index, risky).mean() == pytest.approx(share, abs=0.03)


def test_rollouts_start_in_the_logs_with_actions_in_range():
    data = toy_dataset(3)
    model = line(step=lambda obs, action: obs + action[..., :1])

    def policy(key, obs):
        return jnp.zeros((*obs.shape[:-1], 2))

    config = dataclasses.replace(CONFIG, recovery_share=0.5)
    found = generate(config, HYPER, model, policy, data, 2, jax.random.key(5))
    assert found.obs.shape == (18, 6, data.obs.shape[1])
    like = rollouts.generated_shapes(config, data, 2)
    assert [(x.shape, x.dtype) for x in like] == [(x.shape, x.dtype) for x in found]
    first = np.asarray(found.obs[:, 0])
    logged = np.asarray(data.obs)[np.asarray(data.obs_index)]
    recoveries = np.asarray(found.source) == RECOVERY
    np.testing.assert_array_equal(recoveries, np.arange(18) >= 12)
    origin = np.asarray(found.origin)
    np.testing.assert_array_equal(first[~recoveries], logged[origin[~recoveries]])
    # A recovery starts at a state of an earlier trajectory of its elite.
    for member, rows in enumerate(np.split(first[recoveries], 2)):
        known = np.asarray(found.obs[6 * member : 6 * member + 6, :-1]).reshape(-1, first.shape[1])
        for row, found_origin in zip(rows, origin[12 + 3 * member :], strict=False):
            # A trajectory without motion is in the same state at several steps.
            at = np.flatnonzero((row == known).all(axis=1))
            # The origin is as many steps later, or the last transition of the logged episode.
            parent, later = np.divmod(at, CONFIG.horizon)
            begun = origin[6 * member + parent]
            later = np.minimum(later, np.asarray(data.remaining)[begun])
            assert found_origin in begun + later
    assert np.all(np.abs(found.action) <= 1.0)
    by_policy = np.asarray(found.source) == POLICY
    np.testing.assert_array_equal(found.action[by_policy], 0.0)


def test_recoveries_are_less_risky_than_risk_seeking_rollouts():
    data = toy_dataset(3)
    model = line(step=lambda obs, action: obs + action[..., :1])

    def policy(key, obs):
        return jnp.zeros((*obs.shape[:-1], 2))

    config = dataclasses.replace(CONFIG, starts=200, recovery_share=1.0, candidates=8)
    hyper = HYPER._replace(risk_share=jnp.float32(1.0))
    found = generate(config, hyper, model, policy, data, 2, jax.random.key(6))
    risk = np.asarray(found.obs[:, :, 0].max(axis=1) - found.obs[:, 0, 0])
    recoveries = np.asarray(found.source) == RECOVERY
    assert risk[recoveries].mean() < 0.2 * risk[~recoveries].mean()


def test_sources_have_the_shares_of_the_hyperparameters():
    config = dataclasses.replace(CONFIG, starts=2000, recovery_share=0.3, horizon=1)
    hyper = HYPER._replace(risk_share=jnp.float32(0.6))
    model = line(step=lambda obs, action: obs)
    data = toy_dataset(2)

    def policy(key, obs):
        return jnp.zeros((*obs.shape[:-1], 2))

    found = generate(config, hyper, model, policy, data, 1, jax.random.key(13))
    shares = np.bincount(np.asarray(found.source), minlength=4) / 2000
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2, 0.3], atol=0.04)


@pytest.mark.slow
def test_without_a_cost_network_no_state_is_unsafe():
    config, data = tiny_config(), toy_dataset(1)
    dynamics_net = dynamics.network(config.dynamics, SPEC)
    cost_net = cost.network(config.cost, config.encoder, SPEC)
    normalizer = toy_normalizer(data)
    fitted = toy_model(config, data, normalizer)
    obs, disagreement = data.obs[:10], jnp.zeros(10)
    model = proco.rollout_model(dynamics_net, cost_net, fitted, None)
    assert not np.any(model.unsafe(obs, disagreement))
    np.testing.assert_array_equal(model.score(obs), 0.0)
    known = toy_cost_model(config, data, normalizer)
    model = proco.rollout_model(dynamics_net, cost_net, fitted, known)
    expected = jax.jit(lambda o: cost.unsafe(cost_net, known, o))(obs)
    np.testing.assert_array_equal(model.unsafe(obs, disagreement), expected)
    assert np.any(expected)
