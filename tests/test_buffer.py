import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.augmentation.buffer import Buffer, add, empty_buffer, sample, sample_segments
from proco_jax.augmentation.rollouts import NOWHERE, RECOVERY, RISK, Imagined
from proco_jax.models.normalizer import Normalizer
from proco_jax.types import Dataset, Segment, ToGo, Transition

PLAIN = Normalizer(jnp.zeros(1), jnp.ones(1))


def generation(value: float, unsafe: bool = False, length: int = 2, count: int = 3) -> Imagined:
    """`count` trajectories of 2 steps that hold one number everywhere."""
    return Imagined(
        obs=jnp.full((count, 3, 1), value),
        action=jnp.full((count, 2, 1), value),
        reward=jnp.full((count, 2), value),
        unsafe=jnp.full((count, 2), unsafe),
        length=jnp.full(count, length, jnp.int32),
        source=jnp.full(count, RISK, jnp.int32),
        origin=jnp.full(count, NOWHERE, jnp.int32),
    )


def filled(*generations: Imagined, room: int = 3) -> Buffer:
    held = empty_buffer(room, generations[0] if generations else generation(0.0))
    for new in generations:
        held = add(held, new)
    return held


_sample = jax.jit(sample, static_argnums=(3, 4))


def draw(buffer: Buffer, batch: int, share: float, seed: int, n: int = 1) -> Transition:
    return _sample(jax.random.key(seed), buffer, PLAIN, batch, n, share)


def test_buffer_never_yields_an_unwritten_row():
    found = draw(filled(generation(1.0)), 500, 0.5, 6)
    steps = found.n_step
    for x in (found.obs, found.action, found.next_obs, found.initial_obs, found.reward, steps.obs):
        np.testing.assert_array_equal(x, 1.0)
    np.testing.assert_array_equal(found.weight, 1.0)
    np.testing.assert_array_equal(steps.reward, 1.0)


def test_buffer_never_yields_a_step_beyond_the_length():
    new = generation(1.0, length=1)
    new = new._replace(
        obs=new.obs.at[:, 2].set(9.0),
        action=new.action.at[:, 1].set(9.0),
        reward=new.reward.at[:, 1].set(9.0),
    )
    found = draw(filled(new), 500, 0.5, 7, n=5)
    steps = found.n_step
    values = (found.obs, found.action, found.next_obs, found.reward, steps.obs, steps.reward)
    assert max(x.max() for x in values) == 1.0
    np.testing.assert_array_equal(steps.valid, np.arange(5)[None] < np.ones((500, 1)))


def test_windows_end_with_their_trajectory_by_hand():
    states = jnp.arange(5.0)[None, :, None]
    unsafe = jnp.array([[False, True, False, True]])
    reward = jnp.array([[10.0, 11.0, 12.0, 13.0]])
    origin = jnp.array([NOWHERE])
    new = Imagined(states, states[:, :4], reward, unsafe, jnp.array([3]), jnp.array([RISK]), origin)
    found = draw(filled(new), 200, 0.5, 14, n=2)
    steps = found.n_step
    at = np.asarray(found.obs[:, 0], int)
    assert set(at) == {0, 1, 2}
    np.testing.assert_array_equal(found.action[:, 0], at)
    np.testing.assert_array_equal(found.next_obs[:, 0], at + 1)
    np.testing.assert_array_equal(found.initial_obs, 0.0)
    np.testing.assert_array_equal(found.reward, 10.0 + at)
    np.testing.assert_array_equal(found.cost, np.array([0, 1, 0])[at])
    np.testing.assert_array_equal(steps.obs[:, 0], np.array([2, 3, 3])[at])
    valid = np.array([[True, True], [True, True], [True, False]])
    np.testing.assert_array_equal(steps.valid, valid[at])
    violation = np.array([[False, True], [True, False], [False, False]])
    np.testing.assert_array_equal(steps.violation, violation[at])
    np.testing.assert_array_equal(steps.cost, violation[at].astype(np.float32))
    rewards = np.array([[10, 11], [11, 12], [12, 0]])
    np.testing.assert_array_equal(steps.reward, rewards[at])


def test_imagined_rows_are_marked_and_never_end_in_a_termination():
    found = draw(filled(generation(1.0, length=1)), 20, 0.5, 15, n=3)
    assert np.all(found.imagined)
    np.testing.assert_array_equal(found.discount, 1.0)
    np.testing.assert_array_equal(found.n_step.discount, 1.0)


def test_observations_are_normalized():
    normalizer = Normalizer(jnp.array([1.0]), jnp.array([0.5]))
    found = _sample(jax.random.key(16), filled(generation(3.0)), normalizer, 10, 2, 0.5)
    for x in (found.obs, found.next_obs, found.initial_obs, found.n_step.obs):
        np.testing.assert_array_equal(x, 1.0)
    np.testing.assert_array_equal(found.action, 3.0)


def test_buffer_overwrites_its_oldest_generation_first():
    buffer = filled(*(generation(float(i)) for i in (1, 2, 3, 4)))
    held = {float(x) for x in np.unique(buffer.data.obs)}
    assert held == {2.0, 3.0, 4.0}
    assert int(buffer.generation) == 4
    assert {float(x) for x in np.unique(draw(buffer, 500, 0.5, 8).obs)} == held


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_buffer_yields_the_stated_share_of_violating_trajectories(share):
    buffer = filled(generation(1.0, unsafe=True, count=3), generation(2.0, count=3))
    found = draw(buffer, 4000, share, 9)
    violation = found.n_step.violation
    assert float(violation.mean()) == pytest.approx(share, abs=0.03)
    np.testing.assert_array_equal(found.obs == 1.0, violation)
    np.testing.assert_array_equal(found.cost[:, None], violation)


@pytest.mark.parametrize("unsafe", [False, True])
def test_if_one_kind_is_missing_all_rows_come_from_the_other(unsafe):
    found = draw(filled(generation(1.0, unsafe=unsafe)), 200, 0.5, 10)
    np.testing.assert_array_equal(found.n_step.violation, unsafe)
    np.testing.assert_array_equal(found.obs, 1.0)
    np.testing.assert_array_equal(found.weight, 1.0)


def test_if_nothing_was_kept_every_weight_is_zero():
    for buffer in (filled(), filled(generation(1.0, length=0))):
        np.testing.assert_array_equal(draw(buffer, 50, 0.5, 11).weight, 0.0)


def test_longer_trajectories_are_drawn_in_proportion_to_their_length():
    short, long = generation(1.0, length=1, count=1), generation(2.0, length=2, count=1)
    obs = draw(filled(short, long), 6000, 0.5, 12).obs
    assert float((obs == 2.0).mean()) == pytest.approx(2 / 3, abs=0.03)


# An episode of four steps and one of three, with their sums to go.
LOGS = Dataset(
    obs=jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, 10.0, 11.0, 12.0, 13.0])[:, None],
    obs_index=jnp.array([0, 1, 2, 3, 5, 6, 7]),
    action=jnp.array([0.0, 0.1, 0.2, 0.3, 1.0, 1.1, 1.2])[:, None],
    reward=jnp.array([1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0]),
    cost=jnp.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0]),
    discount=jnp.ones(7),
    episode=jnp.array([0, 0, 0, 0, 1, 1, 1]),
    remaining=jnp.array([3, 2, 1, 0, 2, 1, 0]),
    step=jnp.array([0, 1, 2, 3, 0, 1, 2]),
)
TO_GO = ToGo(
    jnp.array([10.0, 9.0, 7.0, 4.0, 60.0, 50.0, 30.0]), jnp.array([1.0, 1.0, 0, 0, 2.0, 2.0, 2.0])
)
# A rollout from the third step of the first episode, longer than that episode, and a recovery of
# one step at the second step of the other one.
FROM_LOGS = Imagined(
    obs=jnp.array([[[2.0], [50.0], [51.0], [52.0]], [[60.0], [61.0], [62.0], [63.0]]]),
    action=jnp.array([[[0.5], [0.6], [0.7]], [[0.8], [0.9], [0.9]]]),
    reward=jnp.array([[5.0, 6.0, 7.0], [1.0, 8.0, 8.0]]),
    unsafe=jnp.array([[False, True, True], [False, True, True]]),
    length=jnp.array([3, 1]),
    source=jnp.array([RISK, RECOVERY]),
    origin=jnp.array([2, 5]),
)
# Normalized observations are clipped at 8.
TENTH = Normalizer(jnp.zeros(1), jnp.full(1, 0.1))
_segments = jax.jit(
    lambda key, buffer, share: sample_segments(key, buffer, LOGS, TO_GO, TENTH, (400, 3), share)
)


def draw_segments(buffer: Buffer, share: float = 0.5, seed: int = 20) -> Segment:
    """400 segments of three steps, observations in their own unit."""
    found = jax.tree.map(np.asarray, _segments(jax.random.key(seed), buffer, share))
    return found._replace(obs=np.round(10.0 * found.obs, 3))


@pytest.mark.slow
def test_segments_join_a_logged_past_and_an_imagined_future_by_hand():
    # Rows: obs, action, reward, cost, return to go, cost to go, time step, imagined.
    joined = [
        (0.0, 0.0, 1.0, 0.0, 14.0, 2.0, 0, False),
        (1.0, 0.1, 2.0, 1.0, 13.0, 2.0, 1, False),
        (2.0, 0.5, 5.0, 0.0, 11.0, 1.0, 2, True),
        # The logged episode has no fifth step, so the rollout ends here.
        (50.0, 0.6, 6.0, 1.0, 6.0, 1.0, 3, True),
    ]
    # The recovery has no logged past; after it, the episode goes on with its last step.
    recovery = [(60.0, 0.8, 1.0, 0.0, 31.0, 2.0, 1, True)]
    # A share of 1 and of 0: the rollout violates within the episode, the recovery does not.
    for share, timeline, begins in ((1.0, joined, {0, 1, 2, 3}), (0.0, recovery, {0})):
        found = draw_segments(filled(FROM_LOGS), share)
        seen = set()
        for row in range(400):
            obs = found.obs[row, :, 0]
            begin = [one[0] for one in timeline].index(obs[0])
            seen.add(begin)
            expected = timeline[begin : begin + 3]
            count = len(expected)
            np.testing.assert_array_equal(found.mask[row], np.arange(3) < count)
            parts = (
                obs,
                found.action[row, :, 0],
                found.reward[row],
                found.cost[row],
                found.return_to_go[row],
                found.cost_to_go[row],
                found.timestep[row],
                found.imagined[row],
            )
            for part, want in zip(parts, zip(*expected, strict=True), strict=True):
                np.testing.assert_allclose(part[:count], want, rtol=1e-6)
            assert found.imagined[row].any()
            np.testing.assert_array_equal(found.reward[row, count:], 0.0)
            assert not found.imagined[row, count:].any()
        assert seen == begins


def test_a_step_stands_at_every_place_that_its_past_allows_with_equal_probability():
    # A recovery of two steps, each drawn for half of the segments: the first step can only begin
    # one, the second begins a half and follows the first in the other half.
    recovery = FROM_LOGS._replace(
        length=jnp.array([0, 2]), origin=jnp.array([2, 4]), source=jnp.array([RISK, RECOVERY])
    )
    buffer = filled(recovery)
    begins = np.concatenate([draw_segments(buffer, 0.5, seed).obs[:, 0, 0] for seed in range(5)])
    assert set(begins) == {60.0, 61.0}
    assert np.mean(begins == 61.0) == pytest.approx(0.25, abs=0.04)


def test_segments_never_hold_an_unwritten_step_nor_one_of_unknown_origin():
    lost = FROM_LOGS._replace(origin=jnp.array([NOWHERE, NOWHERE]))
    for buffer in (filled(FROM_LOGS, room=3), filled(FROM_LOGS, lost)):
        found = draw_segments(buffer)
        assert found.mask[:, 0].all() and found.imagined.any(axis=1).all()
        # Unwritten trajectories hold zeros, whose action is that of the first logged step alone.
        zero = found.mask & (found.obs[..., 0] == 0.0)
        np.testing.assert_array_equal(found.timestep[zero], 0)
        assert not found.imagined[zero].any()
    for buffer in (filled(FROM_LOGS._replace(length=jnp.array([0, 0]))), filled(lost)):
        found = draw_segments(buffer)
        assert not found.mask.any() and not found.imagined.any()
