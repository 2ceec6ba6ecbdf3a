"""The states in which worlds begin, from the logs to a step of the learned world."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import (
    ACTIONS,
    FLAT,
    SPEC,
    drawn,
    tiny_config,
    toy_cost_model,
    toy_dataset,
    toy_model,
    toy_normalizer,
)

from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.augmentation.learned_world import learned_world
from proco_jax.config.schema import Config
from proco_jax.models import bonus, dynamics, object_map
from proco_jax.observation import ObservationSpec
from proco_jax.pipeline.world_model import Data, make_nets, make_world

GOAL = SPEC.slices["goal"]


def config(updates: int = 3) -> Config:
    settings = tiny_config()
    settings.proco.imagination.updates = updates
    return settings


def made(spec: ObservationSpec, settings: Config, known: bool = True) -> tuple[Context, Any]:
    """A world of toy logs in which every tenth transition earns a bonus, and its networks."""
    data = toy_dataset()
    reward = jnp.where(jnp.arange(data.size) % 10 == 9, 5.0, 0.1 * data.reward)
    data = dataclasses.replace(data, reward=reward)
    normalizer = toy_normalizer(data, spec)
    model = toy_model(settings, data, normalizer, spec)
    usual = jnp.array([-0.2, 0.2])
    model = model._replace(targets=model.targets._replace(usual=usual))
    like = jax.eval_shape(lambda: bonus.empty_model(settings.bonus, spec, ACTIONS))
    redrawn = jnp.zeros(SPEC.size, bool).at[GOAL].set(True)
    events = drawn(like)._replace(normalizer=normalizer, size=jnp.float32(1.0), redrawn=redrawn)
    cost_model = toy_cost_model(settings, data, normalizer, spec) if known else None
    whole, nets = Data(data, data, normalizer, "logs"), make_nets(settings, spec)
    world = make_world(settings, nets, whole, model, cost_model, events)
    return Context(data, normalizer, world), nets


def world_of(context: Context) -> WorldModel:
    assert context.world is not None
    return context.world


@pytest.mark.parametrize("known", [True, False])
def test_worlds_begin_at_logged_and_risky_observations_and_can_be_continued(known: bool) -> None:
    context, nets = made(SPEC, config(), known)
    data, world = context.data, world_of(context)
    assert world.begun is not None and world.begun_risky is not None
    observe = object_map.observation
    np.testing.assert_array_equal(observe(SPEC, world.begun), data.obs[data.obs_index])
    risky = data.obs[data.obs_index[world.risky]]
    np.testing.assert_array_equal(observe(SPEC, world.begun_risky), risky)
    # Without knowledge all states are as risky.
    assert (len(risky) == data.size) is not known
    learned = learned_world(nets.dynamics, nets.cost, context, 2)
    states = learned.starts(jax.random.key(0), 6, jnp.float32(0.5))
    found = learned.step(jax.random.key(2), states, jnp.zeros((6, ACTIONS)))
    assert found.next_state.shape == states.shape == (6, world.begun.shape[1])
    drawn_anew = learned.redraw(jax.random.key(1), found.next_state, jnp.arange(6) < 3)
    assert drawn_anew.shape == states.shape and np.isfinite(drawn_anew).all()


def test_without_rings_worlds_begin_with_logged_observations() -> None:
    context, nets = made(FLAT, config())
    assert world_of(context).begun is None
    learned = learned_world(nets.dynamics, nets.cost, context, 2)
    states = np.asarray(learned.starts(jax.random.key(0), 5, jnp.float32(0.0)))
    logged = np.asarray(context.data.obs)
    assert all((logged == state).all(axis=1).any() for state in states)


def test_where_no_policy_is_improved_nothing_is_prepared() -> None:
    world = world_of(made(SPEC, config(updates=0))[0])
    assert world.begun is None and world.begun_risky is None and world.residuals is None


def test_motions_are_those_by_which_predictions_move_places() -> None:
    context, nets = made(SPEC, config())
    data, model = context.data, world_of(context).dynamics
    found = jax.jit(lambda m, d: dynamics.motions(nets.dynamics, m, d, 1))(model, data)
    assert found.shape == (data.size, 3) and np.abs(found).max() > 1e-4
    state = object_map.begin(SPEC, data.obs[data.obs_index])
    one = jax.jit(lambda m, s, a: dynamics.predict(nets.dynamics, m, jnp.int32(0), s, a))
    after = one(model, state, data.action).next_state[:, SPEC.size :]
    expected = object_map.moved(SPEC, state, found)
    near = np.asarray(state[:, SPEC.size :]) < object_map.NOWHERE / 2
    np.testing.assert_allclose(np.where(near, after, 0), np.where(near, expected, 0), atol=1e-5)


def test_a_member_predicts_the_reward_of_approach() -> None:
    context, nets = made(SPEC, config())
    data, model = context.data, world_of(context).dynamics
    state, action = object_map.begin(SPEC, data.obs[:40]), jnp.zeros((40, ACTIONS))
    one = jax.jit(lambda m: dynamics.predict(nets.dynamics, m, jnp.int32(0), state, action))
    weights = jnp.array([2.0, 0.0])
    found = one(model._replace(approach=weights))
    before = object_map.nearest(SPEC, state)[:, 0]
    closer = before - object_map.nearest(SPEC, found.next_state)[:, 0]
    seen = np.asarray(before) < object_map.NOWHERE / 2
    np.testing.assert_allclose(found.reward, np.where(seen, 2.0 * closer, 0.0), atol=1e-5)
    other = one(model._replace(approach=jnp.zeros(2)))
    assert np.abs(other.reward - found.reward).max() > 1e-3
