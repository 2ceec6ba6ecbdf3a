"""A point mass on a line that must brake before a wall: the answer is known in closed form."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.algorithms import feasibility, proco
from proco_jax.config.schema import AgentConfig, FeasibilityConfig
from proco_jax.models.networks import Encoder
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Ahead, Array, Transition

pytestmark = pytest.mark.slow

DT, BRAKES, FASTEST, FARTHEST = 0.1, 1.0, 1.6, 2.0
LINE = ObservationSpec(
    (
        Field("distance", 1, "flat", "m", "Distance to the wall."),
        Field("speed", 1, "flat", "m/s", "Speed towards the wall."),
    )
)
FEASIBILITY = FeasibilityConfig(unsafe=5.0, discount=0.95, expectile=0.95, target_rate=0.05)
AGENT = AgentConfig(hidden=(64,), learning_rate=1e-3, discount=0.9)
NETS = proco.networks(AGENT, FEASIBILITY, Encoder(LINE, True, (8, 8), 64, 1), 1)
BATCH, STEPS = 256, 5000


def move(obs: Array, action: Array) -> jax.Array:
    """One step of constant acceleration; the mass never rolls back."""
    distance, speed = obs[..., 0], obs[..., 1]
    faster = jnp.clip(speed + BRAKES * DT * jnp.clip(action[..., 0], -1, 1), 0.0, FASTEST)
    distance = distance - 0.5 * (speed + faster) * DT
    return jnp.stack([jnp.clip(distance, -0.2, FARTHEST), faster], axis=-1)


def too_late(obs: Any) -> Any:
    """Whether full braking, v^2 / 2a, takes longer than there is room."""
    return obs[..., 1] ** 2 / (2 * BRAKES) > obs[..., 0]


def draw_states(key: Array, count: int) -> jax.Array:
    unit = jax.random.uniform(key, (count, 2))
    return unit * jnp.array([FARTHEST + 0.1, FASTEST]) - jnp.array([0.1, 0.0])


def draw_batches(key: Array) -> tuple[Transition, feasibility.Batch]:
    """Logged: states with room to brake, any action. Imagined: states anywhere.

    The reward is the speed, so that nothing but the wall asks for braking. Half
    of the actions brake fully, for V_h is a value of what is supported.
    """
    state_key, action_key, kind_key = jax.random.split(key, 3)
    obs = draw_states(state_key, 2 * BATCH)
    gap = obs[:BATCH, 0] - obs[:BATCH, 1] ** 2 / (2 * BRAKES)
    room = jnp.where(gap[:, None] > 0.1, obs[:BATCH], jnp.array([1.5, 0.5]))
    obs = obs.at[:BATCH].set(room)
    action = jax.random.uniform(action_key, (2 * BATCH, 1), minval=-1.0)
    brakes = jax.random.bernoulli(kind_key, 0.5, (2 * BATCH, 1))
    action = jnp.where(brakes, -1.0, action)
    next_obs = move(obs, action)
    ones = jnp.ones(2 * BATCH)
    h = feasibility.constraint_value(FEASIBILITY, next_obs[:, 0] <= 0.0)
    batch = feasibility.Batch(obs, action, h[:, None], next_obs, next_obs, ones, ones)
    logged = Transition(
        obs[:BATCH],
        action[:BATCH],
        ones[:BATCH],
        next_obs[:BATCH],
        Ahead(next_obs[:BATCH, 1], AGENT.discount * ones[:BATCH], next_obs[:BATCH]),
    )
    return logged, batch


@pytest.fixture(scope="module")
def learned() -> proco.AgentState:
    @jax.jit
    def learn(key: Array) -> proco.AgentState:
        init_key, loop_key = jax.random.split(key)

        def step(state: proco.AgentState, k: Array) -> tuple[proco.AgentState, None]:
            return proco.update(AGENT, FEASIBILITY, NETS, state, *draw_batches(k))[0], None

        keys = jax.random.split(loop_key, STEPS)
        return jax.lax.scan(step, proco.init(AGENT, NETS, init_key), keys)[0]

    state = jax.block_until_ready(learn(jax.random.key(0)))
    return state


@pytest.fixture(scope="module")
def act(learned):
    def one(obs: Array, key: Array) -> jax.Array:
        return proco.propose(dataclasses.replace(AGENT, samples=16), NETS, learned, obs, key)[0]

    return jax.jit(jax.vmap(one))


def grid() -> np.ndarray:
    distance, speed = np.meshgrid(np.linspace(0.02, 1.5, 50), np.linspace(0.0, 1.5, 50))
    return np.stack([distance.ravel(), speed.ravel()], axis=1).astype(np.float32)


def test_learned_boundary_is_the_closed_form(learned):
    obs = grid()
    gap = obs[:, 0] - obs[:, 1] ** 2 / (2 * BRAKES)
    clear = np.abs(gap) > 0.05
    nets = NETS.feasibility
    vh = jax.jit(lambda o: feasibility.vh(nets, learned.feasibility.params, o))(obs)
    agrees = (np.asarray(vh) > 0) == too_late(obs)
    assert agrees[clear].mean() >= 0.93
    assert too_late(obs)[clear].mean() > 0.1


def test_policy_brakes_where_it_must(act):
    obs = grid()
    gap = obs[:, 0] - obs[:, 1] ** 2 / (2 * BRAKES)
    # Just too late, or about to be: anything but braking is worse.
    must = (np.abs(gap) < 0.06) & (obs[:, 1] > 0.4)
    action = act(obs, jax.random.split(jax.random.key(1), len(obs)))
    assert np.asarray(action)[must].mean() < -0.6


def test_policy_that_starts_with_room_never_meets_the_wall_but_does_drive(act):
    starts = np.asarray(draw_states(jax.random.key(2), 400))
    gap = starts[:, 0] - starts[:, 1] ** 2 / (2 * BRAKES)
    obs, first = jnp.asarray(starts[gap > 0.2]), starts[gap > 0.2]
    nearest = obs[:, 0]
    for step in range(60):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(3), step), len(obs))
        obs = move(obs, act(obs, keys))
        nearest = jnp.minimum(nearest, obs[:, 0])
    assert np.mean(np.asarray(nearest) > 0.0) >= 0.97
    assert np.mean(first[:, 0] - np.asarray(obs[:, 0])) > 0.2
