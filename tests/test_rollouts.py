import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import toy_dataset

from proco_jax.augmentation import rollouts
from proco_jax.augmentation.buffer import Buffer, Sample, add, empty_buffer, sample
from proco_jax.augmentation.rollouts import BEHAVIOR, ESCAPE, POLICY, RISK, Imagined, World
from proco_jax.config.schema import RolloutConfig

CONFIG = RolloutConfig(horizon=5, starts=6, candidates=4)


def move(obs, action):
    return obs + action


def line(limit: float = jnp.inf, edge: float = 2.0, step=move) -> World:
    """A point on a line that an action moves; unsafe from `edge`; unknown from `limit`."""
    return World(
        step=step,
        predict=lambda obs, action: (step(obs, action), obs[..., 0]),
        score=lambda obs: obs[..., 0],
        unsafe=lambda obs: obs[..., 0] >= edge,
        limit=jnp.float32(limit),
    )


def stay(key, obs):
    return jnp.zeros_like(obs)


def walk(world: World, start, plan, source=BEHAVIOR, policy=stay) -> Imagined:
    """One start `[]`, one plan `[H]` of a line."""
    return rollouts.imagine(
        world,
        policy,
        jnp.full((1, 1, 1), start),
        jnp.asarray(plan, jnp.float32).reshape(1, 1, -1, 1),
        jnp.full((1, 1), source),
        jax.random.key(0),
    )


def generation(value: float, unsafe: bool = False, length: int = 2, count: int = 3) -> Imagined:
    """`count` trajectories of 2 steps that hold one number everywhere."""
    return Imagined(
        obs=jnp.full((count, 3, 1), value),
        action=jnp.full((count, 2, 1), value),
        unsafe=jnp.full((count, 2), unsafe),
        length=jnp.full(count, length, jnp.int32),
        source=jnp.full(count, RISK, jnp.int32),
    )


def filled(*generations: Imagined, room: int = 3) -> Buffer:
    held = empty_buffer(room, generations[0] if generations else generation(0.0))
    for new in generations:
        held = add(held, new)
    return held


_sample = jax.jit(sample, static_argnums=(1, 3))


def draw(buffer: Buffer, batch: int, share: float, key, lookahead: int = 1) -> Sample:
    return _sample(buffer, batch, share, lookahead, key)


def test_imagined_trajectory_by_hand():
    found = walk(line(), 0.0, [1, 1, 1])
    np.testing.assert_array_equal(found.obs[0, :, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(found.action[0, :, 0], [1, 1, 1])
    # The label belongs to the next state.
    np.testing.assert_array_equal(found.unsafe[0], [False, True, True])
    assert int(found.length[0]) == 3


def test_imagined_trajectory_stops_where_disagreement_passes_the_limit():
    found = walk(line(limit=1.5), 0.0, [1, 1, 1, -3, 0])
    # Steps from 0 and 1 are known, the one from 2 is not; coming back does not help.
    assert int(found.length[0]) == 2


def test_what_is_not_finite_is_not_kept():
    world = line(step=lambda obs, action: jnp.where(obs > 0.5, jnp.nan, obs + action))
    found = walk(world, 0.0, [1, 1, 1])
    assert int(found.length[0]) == 1
    assert np.all(np.isfinite(found.obs))


def test_the_policy_acts_where_it_is_the_source_and_nowhere_else():
    def back(key, obs):
        return -jnp.ones_like(obs)

    np.testing.assert_array_equal(walk(line(), 0.0, [1, 1], POLICY, back).action[0, :, 0], [-1, -1])
    for source in (RISK, BEHAVIOR):
        np.testing.assert_array_equal(walk(line(), 0.0, [1, 1], source, back).action[0, :, 0], 1)


def test_violations_beyond_the_length_do_not_count():
    data = generation(0.0)._replace(
        unsafe=jnp.array([[True, False], [False, True], [False, True]]),
        length=jnp.array([1, 1, 2]),
    )
    np.testing.assert_array_equal(rollouts.violates(data), [True, False, True])


def test_summary_by_hand():
    data = generation(0.0)._replace(
        unsafe=jnp.array([[True, False], [False, False], [False, False]]),
        source=jnp.array([RISK, RISK, POLICY]),
    )
    report = {k: float(v) for k, v in rollouts.summary(data).items()}
    assert report == pytest.approx(
        {
            "rollouts/length": 2.0,
            "rollouts/violating_share": 1 / 3,
            "rollouts/violating_share_risk": 0.5,
            "rollouts/violating_share_behavior": 0.0,
            "rollouts/violating_share_policy": 0.0,
            "rollouts/violating_share_escape": 0.0,
        }
    )


@pytest.mark.parametrize(("sign", "extreme"), [(1.0, np.max), (-1.0, np.min)])
def test_extreme_actions_are_the_most_or_least_risky_of_the_candidates(sign, extreme):
    start = jnp.zeros((2, 6, 1))
    key = jax.random.key(1)
    chosen = rollouts.extreme_actions(CONFIG, line(), start, 1, key, sign)
    assert chosen.shape == (2, 6, 5, 1)
    shape = (5, 2, 6, CONFIG.candidates, 1)
    plans = rollouts.persistent_actions(jax.random.clone(key), shape, CONFIG.persistence)
    # What the score of a line is at its worst along each plan.
    worst = np.cumsum(plans[..., 0], axis=0).max(axis=0)
    found = np.cumsum(np.asarray(chosen)[..., 0], axis=2).max(axis=2)
    np.testing.assert_allclose(found, extreme(worst, axis=-1), atol=1e-5)


def test_persistent_actions_are_held_for_about_as_long_as_asked():
    held = np.asarray(rollouts.persistent_actions(jax.random.key(2), (400, 50, 1), 8.0))
    assert np.all(np.abs(held) <= 1.0)
    renewed = np.mean(held[1:] != held[:-1])
    assert renewed == pytest.approx(1 / 8, rel=0.1)
    fresh = np.asarray(rollouts.persistent_actions(jax.random.key(3), (50, 5, 1), 1.0))
    assert np.all(fresh[1:] != fresh[:-1])


def test_logged_actions_are_those_of_the_log_and_hold_the_last_at_the_end():
    data = toy_dataset(2)
    ahead = rollouts.logged_actions(data, jnp.array([[0, 18, 19, 39]]), 4)
    action = np.asarray(data.action)
    expected = action[[[0, 1, 2, 3], [18, 19, 19, 19], [19] * 4, [39] * 4]]
    np.testing.assert_array_equal(ahead[0], expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_starts_come_from_the_risky_ones_as_often_as_asked(share):
    risky = jnp.array([100, 101])
    index = np.asarray(rollouts.sample_starts(jax.random.key(4), (4, 1000), 100_000, risky, share))
    assert index.min() >= 0 and index.max() < 100_000
    assert np.isin(index, risky).mean() == pytest.approx(share, abs=0.03)


def test_generate_gives_starts_of_the_logs_and_actions_in_range():
    data = toy_dataset(3)
    world = line(step=lambda obs, action: obs + action[..., :1])

    def policy(key, obs):
        return jnp.zeros((*obs.shape[:-1], 2))

    config = dataclasses.replace(CONFIG, escape_share=0.5)
    found = rollouts.generate(config, world, policy, data, jnp.arange(5), 2, jax.random.key(5))
    assert found.obs.shape == (18, 6, data.obs.shape[1])
    first = np.asarray(found.obs[:, 0])
    logged = np.asarray(data.obs)[np.asarray(data.obs_index)]
    escapes = np.asarray(found.source) == ESCAPE
    np.testing.assert_array_equal(escapes, np.arange(18) >= 12)
    assert all((row == logged).all(axis=1).any() for row in first[~escapes])
    # An escape starts where an earlier trajectory of its member has come to.
    for member, rows in enumerate(np.split(first[escapes], 2)):
        known = np.asarray(found.obs[6 * member : 6 * member + 6, :-1]).reshape(-1, first.shape[1])
        assert all((row == known).all(axis=1).any() for row in rows)
    assert np.all(np.abs(found.action) <= 1.0)
    by_policy = np.asarray(found.source) == POLICY
    np.testing.assert_array_equal(found.action[by_policy], 0.0)


def test_escapes_are_less_risky_than_what_they_escape_from():
    data = toy_dataset(3)
    world = line(step=lambda obs, action: obs + action[..., :1])

    def policy(key, obs):
        return jnp.zeros((*obs.shape[:-1], 2))

    config = dataclasses.replace(CONFIG, starts=200, escape_share=1.0, candidates=8, risk_share=1.0)
    found = rollouts.generate(config, world, policy, data, jnp.arange(5), 2, jax.random.key(6))
    risk = np.asarray(found.obs[:, :, 0].max(axis=1) - found.obs[:, 0, 0])
    escapes = np.asarray(found.source) == ESCAPE
    assert risk[escapes].mean() < 0.2 * risk[~escapes].mean()


def test_buffer_never_yields_an_unwritten_row():
    buffer = filled(generation(1.0))
    found = draw(buffer, 500, 0.5, jax.random.key(6))
    for x in (found.obs, found.action, found.next_obs, found.obs_ahead, found.weight):
        np.testing.assert_array_equal(x, 1.0)


def test_buffer_never_yields_a_step_beyond_the_length():
    new = generation(1.0, length=1)
    new = new._replace(obs=new.obs.at[:, 2].set(9.0), action=new.action.at[:, 1].set(9.0))
    found = draw(filled(new), 500, 0.5, jax.random.key(7), lookahead=5)
    assert max(x.max() for x in (found.obs, found.action, found.next_obs, found.obs_ahead)) == 1.0


def test_what_comes_after_a_sample_ends_with_its_trajectory():
    states = jnp.arange(5.0)[None, :, None]
    unsafe = jnp.array([[False, True, False, True]])
    new = Imagined(states, states[:, :4], unsafe, jnp.array([3]), jnp.array([RISK]))
    found = draw(filled(new), 200, 0.5, jax.random.key(14), lookahead=2)
    at = np.asarray(found.obs[:, 0], int)
    assert set(at) == {0, 1, 2}
    np.testing.assert_array_equal(found.next_obs[:, 0], at + 1)
    np.testing.assert_array_equal(found.obs_ahead[:, 0], np.array([2, 3, 3])[at])
    expected = np.array([[False, True], [True, False], [False, False]])
    np.testing.assert_array_equal(found.unsafe, expected[at])


def test_buffer_overwrites_its_oldest_generation_first():
    buffer = filled(*(generation(float(i)) for i in (1, 2, 3, 4)))
    held = {float(x) for x in np.unique(buffer.data.obs)}
    assert held == {2.0, 3.0, 4.0}
    assert int(buffer.generation) == 4
    assert {float(x) for x in np.unique(draw(buffer, 500, 0.5, jax.random.key(8)).obs)} == held


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_buffer_yields_the_asked_share_of_violating_trajectories(share):
    buffer = filled(generation(1.0, unsafe=True, count=3), generation(2.0, count=3))
    found = draw(buffer, 4000, share, jax.random.key(9))
    assert float(found.unsafe.mean()) == pytest.approx(share, abs=0.03)
    np.testing.assert_array_equal(found.obs == 1.0, found.unsafe)


@pytest.mark.parametrize("unsafe", [False, True])
def test_where_one_kind_is_missing_all_come_from_the_other(unsafe):
    found = draw(filled(generation(1.0, unsafe=unsafe)), 200, 0.5, jax.random.key(10))
    np.testing.assert_array_equal(found.unsafe, unsafe)
    np.testing.assert_array_equal(found.obs, 1.0)
    np.testing.assert_array_equal(found.weight, 1.0)


def test_where_nothing_was_kept_every_weight_is_zero():
    for buffer in (filled(), filled(generation(1.0, length=0))):
        np.testing.assert_array_equal(draw(buffer, 50, 0.5, jax.random.key(11)).weight, 0.0)


def test_longer_trajectories_are_drawn_in_proportion_to_their_length():
    short, long = generation(1.0, length=1, count=1), generation(2.0, length=2, count=1)
    obs = draw(filled(short, long), 6000, 0.5, jax.random.key(12)).obs
    assert float((obs == 2.0).mean()) == pytest.approx(2 / 3, abs=0.03)


def test_sources_are_shared_as_the_config_says():
    config = dataclasses.replace(CONFIG, starts=2000, risk_share=0.6, escape_share=0.3, horizon=1)
    world = line(step=lambda obs, action: obs)
    data = toy_dataset(2)

    def policy(key, obs):
        return jnp.zeros((*obs.shape[:-1], 2))

    found = rollouts.generate(config, world, policy, data, jnp.arange(5), 1, jax.random.key(13))
    shares = np.bincount(np.asarray(found.source), minlength=4) / 2000
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2, 0.3], atol=0.04)
