"""Errors of the dynamics model, one step and open loop, in worlds whose model is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.diagnostics import dynamics_error
from proco_jax.models.dynamics import Model
from proco_jax.models.dynamics_targets import Targets
from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Dataset, Episode

LINE = ObservationSpec(
    (Field("place", 1, "flat", "m", "Place."), Field("speed", 1, "flat", "m/s", "Speed."))
)
NORMALIZER = Normalizer(jnp.zeros(2), jnp.ones(2))


class LineWorld:
    """Predicts that the place moves by `share` of the speed and the speed by the action."""

    spec = LINE

    def apply(self, share: Any, obs: jax.Array, action: jax.Array) -> Any:
        u = action[..., 0]
        change = jnp.stack([share * obs[..., 1], u, u, 0.0 * u], axis=-1)
        return change, jnp.zeros_like(change), jnp.zeros_like(change), jnp.zeros((*u.shape, 3))


WORLD: Any = LineWorld()


def model(share: float = 1.0) -> Model:
    targets = Targets(jnp.zeros(4), jnp.ones(4), jnp.ones(4), jnp.ones(0), jnp.array([-1, 1]))
    no, elites = jnp.zeros(1), jnp.arange(2)
    own = (jnp.full(2, share), elites, NORMALIZER, targets, jnp.inf)
    return Model(*own, no > 0, no, no > 0)


def episode(seed: int, steps: int = 40, costs: tuple[int, ...] = ()) -> Episode:
    rng = np.random.default_rng(seed)
    speed = rng.uniform(-1, 1, steps + 1)
    action = np.diff(speed).astype(np.float32)[:, None]
    place = np.concatenate([[0.0], np.cumsum(speed[:-1])])
    cost_of = np.zeros(steps, np.float32)
    cost_of[list(costs)] = 1.0
    obs = np.stack([place, speed], axis=1).astype(np.float32)
    return Episode(obs, action, action[:, 0].copy(), cost_of, False)


def dataset(*episodes: Episode) -> Dataset:
    sizes = [len(e.reward) for e in episodes]
    starts = np.cumsum([0, *[n + 1 for n in sizes]])
    index = np.concatenate([start + np.arange(n) for start, n in zip(starts, sizes, strict=False)])
    action = np.concatenate([e.action for e in episodes])
    reward = np.concatenate([e.reward for e in episodes])
    obs = np.concatenate([e.obs for e in episodes])
    none = np.zeros(len(reward), np.int32)
    return Dataset(obs, index, action, reward, 0 * reward, 0 * reward + 1, none, none, none)


def test_perfect_model_has_an_r2_of_one_in_every_group():
    report = dynamics_error.one_step_r2(WORLD, model(), dataset(episode(0)), dataset(episode(1)))
    assert set(report) == {"place", "speed", "reward"}
    for scores in report.values():
        assert scores["model"] == pytest.approx(1.0, abs=1e-4)
        assert scores["ridge"] > 0.9
        assert scores["persistence"] == 0.0


def test_model_that_predicts_no_change_of_a_group_has_an_r2_of_zero_there():
    report = dynamics_error.one_step_r2(WORLD, model(0.0), dataset(episode(0)), dataset(episode(1)))
    assert report["place"]["model"] == pytest.approx(0.0, abs=1e-5)
    assert report["speed"]["model"] == pytest.approx(1.0, abs=1e-4)


def test_a_group_that_never_changes_in_held_out_episodes_has_no_r2():
    still = episode(1)
    still = still._replace(reward=0 * still.reward)
    report = dynamics_error.one_step_r2(WORLD, model(), dataset(episode(0)), dataset(still))
    assert set(report) == {"place", "speed"}


def test_open_loop_of_a_perfect_model_has_no_error():
    def margin(obs: np.ndarray) -> np.ndarray:
        return -np.abs(obs[..., 0])

    rows = dynamics_error.open_loop(WORLD, model(), margin, [episode(2), episode(3)], near=1e9)
    assert [row["steps"] for row in rows] == [1, 5, 10, 20]
    for row in rows:
        assert row["mae_model"] == pytest.approx(0.0, abs=1e-3)
        assert row["correlation"] == pytest.approx(1.0, abs=1e-3)
    assert rows[-1]["mae_persistence"] > rows[0]["mae_persistence"] > 0
    assert (
        dynamics_error.open_loop(WORLD, model(), lambda obs: obs[..., 0] - 1e9, [episode(2)], 1)
        == []
    )


def shifted_margin(obs: np.ndarray) -> np.ndarray:
    return np.asarray(obs)[..., 0] - 5.0


def test_a_perfect_model_is_exceeded_by_nothing():
    args = (WORLD, model(), shifted_margin, [episode(2), episode(3)])
    found = dynamics_error.margin_excess(*args, near=1e9, steps=10)
    # Starts at 0, 5, 10, 15 of either.
    np.testing.assert_allclose(found, np.zeros(8), atol=1e-3)


def test_the_excess_is_what_the_model_misses_of_the_margin():
    # The place stays in the prediction of this model.
    one = episode(2)
    found = dynamics_error.margin_excess(WORLD, model(0.0), shifted_margin, [one], 1e9, 10)
    starts = np.array([0, 5, 10, 15])
    np.testing.assert_allclose(found, one.obs[starts + 10, 0] - one.obs[starts, 0], atol=1e-5)


@pytest.mark.parametrize("steps", [1, 20])
def test_the_excess_is_measured_near_the_unsafe_set_alone(steps):
    one = episode(2)
    starts = np.array([t for t in (0, 5, 10, 15) if shifted_margin(one.obs[t]) > -5.2])
    assert 0 < len(starts) < 4
    found = dynamics_error.margin_excess(WORLD, model(0.0), shifted_margin, [one], 5.2, steps)
    np.testing.assert_allclose(found, one.obs[starts + steps, 0] - one.obs[starts, 0], atol=1e-5)
    assert not len(dynamics_error.margin_excess(WORLD, model(), shifted_margin, [one], -1e9, steps))
    assert not len(dynamics_error.margin_excess(WORLD, model(), shifted_margin, [], 1e9, steps))


def test_a_margin_that_is_no_number_exceeds_every_prediction():
    def unknown(obs: np.ndarray) -> np.ndarray:
        return np.where(np.asarray(obs)[..., 1] > 0, np.nan, 1.0)

    one = episode(2)
    found = dynamics_error.margin_excess(WORLD, model(), unknown, [one], 1e9, 10)
    assert np.isinf(found).any() and not np.isnan(found).any()


def stopped(after: int) -> Episode:
    """Costs from step `after` on, where the place no longer follows the speed."""
    one = episode(4, costs=tuple(range(after, 40)))
    obs = one.obs.copy()
    obs[after + 1 :, 0] = obs[after + 1, 0]
    return one._replace(obs=obs)


def test_steps_after_a_violation_are_left_out_on_request():
    def margin(obs: np.ndarray) -> np.ndarray:
        return obs[..., 0]

    touched = [stopped(12), stopped(13)]
    everything = dynamics_error.open_loop(WORLD, model(), margin, touched, 1e9)
    before = dynamics_error.open_loop(WORLD, model(), margin, touched, 1e9, until_violation=True)
    assert everything[-1]["mae_model"] > 0.1
    assert [row["mae_model"] for row in before] == pytest.approx([0.0] * len(before), abs=1e-3)
    # Starts at 0, 5, 10, 15 of either; the step that violates still counts.
    assert {row["steps"]: row["starts"] for row in before} == {1: 6, 5: 4, 10: 2}


class RingWorld:
    """Two rings of two bins; the action moves the first closer, the second changes at random."""

    spec = ObservationSpec(
        (
            Field("walls", 2, "ring", "closeness", "Walls.", reach=2.0),
            Field("birds", 2, "ring", "closeness", "Birds.", reach=4.0),
        )
    )

    def apply(self, params: Any, obs: jax.Array, action: jax.Array) -> Any:
        u, zero = action[..., 0] + 0.0 * params, 0.0 * action[..., 0]
        change = jnp.stack([u, u, zero, zero, zero, zero], axis=-1)
        return change, jnp.zeros_like(change), jnp.zeros_like(change), jnp.zeros((*u.shape, 3))


def test_each_ring_is_measured_on_its_own_in_meters():
    rng = np.random.default_rng(0)
    action = rng.uniform(-0.01, 0.01, (40, 1)).astype(np.float32)
    walls = 0.5 + np.append(0.0, np.cumsum(action[:, 0]))
    birds = rng.uniform(0.4, 0.6, 41)
    obs = np.stack([walls, walls - 0.2, birds, birds - 0.2], axis=1).astype(np.float32)
    one = Episode(obs, action, np.zeros(40), np.zeros(40), False)
    targets = Targets(jnp.zeros(6), jnp.ones(6), jnp.ones(6), jnp.ones(2), jnp.array([-1, 1]))
    normalizer = Normalizer(jnp.zeros(4), jnp.ones(4))
    no = jnp.zeros(2)
    own = (no, jnp.arange(2), normalizer, targets, jnp.inf)
    fitted = Model(*own, no > 0, no, no > 0)
    net: Any = RingWorld()
    rows = dynamics_error.open_loop_by_ring(net, fitted, [one], near=4.0)
    assert [(row["ring"], row["steps"]) for row in rows] == [
        (ring, steps) for ring in ("walls", "birds") for steps in (1, 5, 10, 20)
    ]
    for row in rows[:4]:
        assert row["mae_model"] == pytest.approx(0.0, abs=1e-4)
        assert row["correlation"] == pytest.approx(1.0, abs=1e-3)
    for row in rows[4:]:
        assert row["mae_model"] == pytest.approx(row["mae_persistence"], abs=1e-6)
    # Two meters of reach a unit of closeness.
    moved = np.abs(np.diff(walls))[::5][:4].mean() * 2.0
    assert rows[0]["mae_persistence"] == pytest.approx(moved, rel=1e-3)
    assert dynamics_error.open_loop_by_ring(net, fitted, [one], near=0.1) == []
