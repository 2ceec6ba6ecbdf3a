"""Laws of the classifier of states that end an episode, and of what imagination does with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.augmentation import rollouts
from proco_jax.augmentation.rollouts import RISK, RolloutModel
from proco_jax.data.logs import to_dataset
from proco_jax.models import bonus, termination
from proco_jax.models.dynamics import MeanPrediction
from proco_jax.models.normalizer import Normalizer, fit_normalizer
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Dataset, Episode

SPEC = ObservationSpec((Field("z", 1, "flat", "m", "Height."), Field("v", 1, "flat", "m/s", "")))
LOWEST = 0.7


def falling(seed: int, episodes: int = 60, steps: int = 40) -> Dataset:
    """Heights that wander around 1; below `LOWEST` the episode ends."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(episodes):
        height = 1.0 + np.cumsum(rng.normal(0, 0.05, steps + 1))
        below = np.flatnonzero(height < LOWEST)
        last = int(below[0]) if len(below) and below[0] > 0 else steps
        obs = np.stack([height, rng.normal(size=steps + 1)], axis=1).astype(np.float32)[: last + 1]
        zeros = np.zeros(last, np.float32)
        found.append(Episode(obs, zeros[:, None], zeros, zeros, bool(height[last] < LOWEST)))
    return to_dataset(found)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return falling(0)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> termination.TerminationModel:
    normalizer = jax.tree.map(jnp.asarray, fit_normalizer(SPEC, np.asarray(data.obs)))
    data = jax.tree.map(jnp.asarray, data)
    return termination.fit(normalizer, data, jax.random.key(0))


def test_states_that_end_an_episode_are_found_in_other_logs(fitted) -> None:
    other = falling(1, 200)
    found = np.asarray(termination.ends(fitted, other.obs[other.obs_index + 1]))
    over = termination.terminates(other)
    assert over.sum() > 20
    assert found[over].mean() > 0.9 and found[~over].mean() < 0.01


def test_the_threshold_is_a_quantile_of_the_states_that_did_not_end(data, fitted) -> None:
    found = np.asarray(termination.ends(fitted, data.obs[data.obs_index + 1]))
    over = termination.terminates(data)
    assert found[~over].mean() <= termination.FALSE_SHARE + 1 / (~over).sum()
    assert found[over].mean() >= 0.5


def test_the_cross_entropy_by_hand_and_its_gradient() -> None:
    found, grad = jax.value_and_grad(bonus.event_loss)(
        jnp.array([0.0, np.log(3.0)]), jnp.array([True, False]), jnp.full(2, 0.5)
    )
    np.testing.assert_allclose(found, (np.log(2) + np.log(4)) / 2, rtol=1e-6)
    np.testing.assert_allclose(grad, [-0.25, 0.375], rtol=1e-6)


def test_an_empty_model_has_the_shapes_of_a_fitted_one(fitted) -> None:
    empty = termination.empty_model(SPEC.size)
    like = jax.tree.map(lambda x: (x.shape, x.dtype), fitted)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), empty) == like


def test_logs_without_terminations_are_refused(data: Dataset) -> None:
    endless = dataclasses.replace(data, discount=jnp.ones_like(data.discount))
    assert not termination.terminates(endless).any()
    with pytest.raises(ValueError, match=f"found 0 in {data.size} transitions"):
        termination.fit(Normalizer(jnp.zeros(2), jnp.ones(2)), endless, jax.random.key(0))


@pytest.mark.parametrize(("floor", "length"), [(None, 5), (0.75, 2), (2.0, 0)])
def test_imagined_trajectories_stop_before_the_state_that_ends_them(floor, length) -> None:
    """Each step falls by 0.1: from 1 to 0.9, 0.8, 0.7."""

    def predict(obs: jax.Array, action: jax.Array) -> MeanPrediction:
        zeros = jnp.zeros(obs.shape[:-1])
        return MeanPrediction(obs - jnp.array([0.1, 0.0]), zeros, zeros)

    model = RolloutModel(
        step=lambda obs, action: obs,
        predict=predict,
        score=lambda obs: obs[..., 0],
        unsafe=lambda obs, disagreement: jnp.zeros(obs.shape[:-1], bool),
        limit=jnp.inf,
        ends=None if floor is None else lambda obs: obs[..., 0] < floor,
    )
    start, plan = jnp.ones((1, 1, 2)), jnp.zeros((1, 1, 5, 1))
    found = rollouts.imagine(
        model, lambda key, obs: obs, start, plan, jnp.full((1, 1), RISK), jax.random.key(0)
    )
    np.testing.assert_array_equal(found.length, [length])
