"""A point mass on a line that must brake before a wall: the answer is known in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.algorithms import feasibility, proco
from proco_jax.config.schema import (
    ANY_REWARD,
    Config,
    EncoderConfig,
    FeasibilityConfig,
    ProcoConfig,
)
from proco_jax.deployment.shield import ShieldState, filter_actions
from proco_jax.models import dynamics
from proco_jax.models.networks import sample_gaussian
from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import Field, ObservationSpec
from proco_jax.types import Array, NStep, TaskSpec, Transition

pytestmark = pytest.mark.slow

DT, BRAKES, FASTEST, FARTHEST = 0.1, 1.0, 1.6, 2.0
LINE = ObservationSpec(
    (
        Field("distance", 1, "flat", "m", "Distance to the wall."),
        Field("speed", 1, "flat", "m/s", "Speed towards the wall."),
    )
)
TASK = TaskSpec(LINE, action_size=1, episode_steps=60, cost_limit=0.0)
CONFIG = Config(
    encoder=EncoderConfig(bin_hidden=(8, 8), features=64),
    feasibility=FeasibilityConfig(
        hidden=(64,), learning_rate=1e-3, unsafe=5.0, discount=0.95, expectile=0.95, tau=0.05
    ),
    proco=ProcoConfig(hidden=(64,), learning_rate=1e-3, discount=0.9),
)
HYPER = proco.make(CONFIG, TASK).hyper
NETS = proco.make_networks(CONFIG, TASK)
BATCH, STEPS, SAMPLES = 256, 5000, 16
PLAIN = Normalizer(jnp.zeros(2), jnp.ones(2))


def move(obs: Array, action: Array) -> jax.Array:
    """One step of constant acceleration; the mass never rolls back."""
    distance, speed = obs[..., 0], obs[..., 1]
    faster = jnp.clip(speed + BRAKES * DT * jnp.clip(action[..., 0], -1, 1), 0.0, FASTEST)
    distance = distance - 0.5 * (speed + faster) * DT
    return jnp.stack([jnp.clip(distance, -0.2, FARTHEST), faster], axis=-1)


def too_late(obs: Any) -> Any:
    """Whether the braking distance, v^2 / 2a, exceeds the distance to the wall."""
    return obs[..., 1] ** 2 / (2 * BRAKES) > obs[..., 0]


def draw_states(key: Array, count: int) -> jax.Array:
    unit = jax.random.uniform(key, (count, 2))
    return unit * jnp.array([FARTHEST + 0.1, FASTEST]) - jnp.array([0.1, 0.0])


def draw_batch(key: Array) -> Transition:
    """Logged rows: states with room to brake, any action. Imagined rows: states anywhere.

    The reward is the speed, so that nothing but the wall is a reason to brake. Half
    of the actions brake fully, since V_h is a value of supported actions.
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
    reward, violation = next_obs[:, 1], next_obs[:, 0] <= 0.0
    cost = violation.astype(jnp.float32)
    steps = NStep(
        reward=reward[:, None],
        cost=cost[:, None],
        violation=violation[:, None],
        valid=jnp.ones((2 * BATCH, 1), bool),
        obs=next_obs,
        discount=ones,
    )
    return Transition(
        obs=obs,
        action=action,
        reward=reward,
        cost=cost,
        next_obs=next_obs,
        discount=ones,
        initial_obs=obs,
        n_step=steps,
        weight=ones,
        imagined=jnp.arange(2 * BATCH) >= BATCH,
    )


@pytest.fixture(scope="module")
def learned() -> proco.State:
    @jax.jit
    def learn(key: Array) -> proco.State:
        init_key, loop_key = jax.random.split(key)

        def step(state: proco.State, k: Array) -> tuple[proco.State, None]:
            return proco.update(HYPER, NETS, state, draw_batch(k))[0], None

        keys = jax.random.split(loop_key, STEPS)
        return jax.lax.scan(step, proco.init(NETS, init_key), keys)[0]

    return jax.block_until_ready(learn(jax.random.key(0)))


@pytest.fixture(scope="module")
def act(learned):
    """The policy under the filter, from observations `[n, O]` and keys `[n]`."""
    # Of the model, the filter uses the normalizer alone.
    unused = dict.fromkeys(dynamics.Model._fields)
    model: Any = dynamics.Model(**{**unused, "normalizer": PLAIN})
    zero = jnp.float32(0.0)
    shield = ShieldState(learned.feasibility.params, model, zero, zero, jnp.float32(ANY_REWARD))
    params = learned.params["policy"]

    def filtered(obs: Array, keys: Array) -> jax.Array:
        proposals = jax.vmap(lambda o, k: sample_gaussian(NETS.policy, params, o, k, SAMPLES))(
            obs, keys
        )
        return filter_actions(NETS.feasibility, shield, obs, proposals)[0]

    return jax.jit(filtered)


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


def test_policy_that_starts_with_room_avoids_the_wall_but_does_drive(act):
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
