"""A point mass on a line that must brake before a wall; violation-free logs do not show why.

The reward is the speed, so nothing but the wall is a reason to brake. Drivers hold random forces.
Only their episodes without a violation are logged, and no episode of the logs goes beyond the wall.
Imagined trajectories, with the true dynamics, start in logged states and do.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.algorithms.base import Algorithm, Previous
from proco_jax.augmentation import buffer, rollouts
from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.config.schema import Config, EncoderConfig, replaced
from proco_jax.data.logs import to_dataset
from proco_jax.models.normalizer import fit_normalizer
from proco_jax.observation import Field, ObservationSpec
from proco_jax.training import loop
from proco_jax.types import Array, Episode, TaskSpec

DT, FASTEST, WALL = 0.1, 1.6, 3.0
STEPS, EPISODES, HORIZON, TRAJECTORIES, HELD, SEEDS = 60, 120, 20, 600, 8, 1
LINE = ObservationSpec(
    (
        Field("position", 1, "flat", "m", "Way from the start; the wall is at 3 m."),
        Field("speed", 1, "flat", "m/s", "Speed towards the wall."),
    )
)
TASK = TaskSpec(LINE, action_size=1, episode_steps=STEPS, cost_limit=1.0)


def move(obs: Any, action: Any) -> Any:
    """One step of constant acceleration from obs `[..., 2]`; the mass never rolls back."""
    position, speed = obs[..., 0], obs[..., 1]
    faster = (speed + DT * action[..., 0].clip(-1, 1)).clip(0.0, FASTEST)
    position = (position + 0.5 * (speed + faster) * DT).clip(0.0, WALL + 0.5)
    stack = np.stack if isinstance(obs, np.ndarray) else jnp.stack
    return stack([position, faster], axis=-1)


def beyond(obs: Any) -> Any:
    """Whether the mass is beyond the wall, which costs 1 a step."""
    return obs[..., 0] > WALL


def starts(rng: np.random.Generator, count: int) -> np.ndarray:
    """States with all room to brake."""
    return rng.uniform([0.0, 0.0], [1.0, 0.5], (count, 2)).astype(np.float32)


def drive(start: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Observations `[n, T + 1, 2]` under forces `[n, T, 1]`."""
    obs = [start]
    for step in range(action.shape[1]):
        obs.append(move(obs[-1], action[:, step]))
    return np.stack(obs, axis=1).astype(np.float32)


def random_forces(rng: np.random.Generator, count: int, steps: int) -> np.ndarray:
    """Forces `[n, T, 1]` that are held for a while; a third of them are full throttle or brake."""
    free = rng.uniform(-1.0, 1.0, (count, steps // HELD + 1, 1))
    full = np.where(rng.random(free.shape) < 1 / 3, np.sign(free), free)
    shift = rng.integers(HELD, size=(count, 1))
    held = np.arange(steps) + shift
    return np.take_along_axis(full, np.minimum(held // HELD, steps // HELD)[..., None], axis=1)


def logs() -> list[Episode]:
    """The violation-free episodes."""
    rng = np.random.default_rng(0)
    action = random_forces(rng, 2 * EPISODES, STEPS).astype(np.float32)
    obs = drive(starts(rng, 2 * EPISODES), action)
    safe = np.flatnonzero(~beyond(obs).any(axis=1))[:EPISODES]
    return [
        Episode(obs[i], action[i], obs[i, 1:, 1], np.zeros(STEPS, np.float32), False) for i in safe
    ]


def imagined(episodes: list[Episode]) -> rollouts.Imagined:
    """Trajectories from logged states, with the true dynamics."""
    rng = np.random.default_rng(1)
    states = np.concatenate([e.obs[:-1] for e in episodes])
    origin = rng.integers(len(states), size=TRAJECTORIES)
    start = states[origin]
    action = random_forces(rng, TRAJECTORIES, HORIZON).astype(np.float32)
    # The braking distance of full speed is half of the last way.
    action[: TRAJECTORIES // 3] = -1.0
    obs = drive(start, action)
    return rollouts.Imagined(
        obs=jnp.asarray(obs),
        action=jnp.asarray(action),
        reward=jnp.asarray(obs[:, 1:, 1]),
        unsafe=jnp.asarray(beyond(obs[:, 1:])),
        length=jnp.full(TRAJECTORIES, HORIZON, jnp.int32),
        source=jnp.zeros(TRAJECTORIES, jnp.int32),
        origin=jnp.asarray(origin, jnp.int32),
    )


def config(steps: int) -> Config:
    """Small networks and high rates for every algorithm, so that a short training suffices."""
    base = Config(seeds=SEEDS, encoder=EncoderConfig(rings=False, features=32))
    fast = {"hidden": (32,), "learning_rate": 1e-3, "discount": 0.95, "tau": 0.02}
    of = {
        "proco": fast,
        "feasibility": fast | {"unsafe": 5.0},
        "bcq_lag": fast | {"vae_hidden": (32,)},
        "bear_lag": fast | {"vae_hidden": (32,)},
        "cpq": fast
        | {"vae_hidden": (32,), "learning_rate": 3e-3, "policy_learning_rate": 3e-3, "tau": 0.05},
        "cdt": {
            "width": 32,
            "layers": 1,
            "heads": 2,
            "context": 5,
            "learning_rate": 3e-3,
            "warmup_steps": 50.0,
            # An episode is judged by whether it violates at all.
            "target_cost": 0.0,
        },
        "rollouts": {"interval": steps},
        "train": {"steps": steps, "batch": 64, "chunk": steps, "checkpoint_every": steps},
    }
    return replaced(base, {f"{s}.{n}": v for s, values in of.items() for n, v in values.items()})


def context(augmented: bool) -> Context:
    """The logs, and, `augmented`, the imagined trajectories."""
    episodes = logs()
    data = jax.tree.map(jnp.asarray, to_dataset(episodes))
    normalizer = jax.tree.map(jnp.asarray, fit_normalizer(LINE, np.asarray(data.obs)))
    if not augmented:
        return Context(data, normalizer, None)
    found = imagined(episodes)
    held = buffer.add(buffer.empty_buffer(1, found), found)
    unsafe = beyond(data.obs[data.obs_index + 1])
    # Replayed trajectories need neither dynamics nor a cost network.
    world: Any = WorldModel(None, None, unsafe, jnp.arange(1), held)  # pyright: ignore
    return Context(data, normalizer, world)


def train_and_drive(algorithm: str, augmentation: str, steps: int) -> tuple[float, float]:
    """Share of episodes that go beyond the wall, and mean way to where they stop or the wall."""
    settings, given = config(steps), context(augmentation != "none")
    program = loop.make_program(settings, TASK, algorithm, augmentation)
    hyper = loop.make_hyper(program, SEEDS)
    keys = jax.random.split(jax.random.key(0), SEEDS)
    training = loop.make_training(program)
    state = training.warm_up(given, hyper, training.init(given, hyper, keys))
    state, _ = training.chunk(given, hyper, state)
    obs = jnp.asarray(starts(np.random.default_rng(2), 64))

    @jax.jit
    def episodes(hyper: Any, state: Any, keys: Array) -> Array:
        one = functools.partial(_last_obs, program.algorithm, given, obs)
        return jax.vmap(one)(hyper, state, keys)

    keys = jax.random.split(jax.random.key(3), SEEDS)
    last = np.asarray(episodes(hyper.algorithm, state.algorithm, keys))
    return float(beyond(last).mean()), float((np.minimum(last[..., 0], WALL) - obs[:, 0]).mean())


def _last_obs(
    algorithm: Algorithm, given: Context, obs: Array, hyper: Any, state: Any, key: Array
) -> Array:
    """The last observation `[n, 2]` of an episode from each observation; no way leads back."""
    count = obs.shape[0]

    def step(inner: tuple, key: Array) -> tuple[tuple, None]:
        obs, carry, previous = inner
        keys = jax.random.split(key, count)
        act = jax.vmap(lambda k, c, o, p: algorithm.act(k, hyper, state, c, o, p))
        action, carry = act(keys, carry, given.normalizer(obs), previous)
        moved = move(obs, action)
        told = Previous(action, moved[:, 1], beyond(moved).astype(jnp.float32))
        return (moved, carry, told), None

    def repeated(x: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(x), (count, *jnp.shape(x)))

    fresh = jax.tree.map(repeated, (algorithm.initial_carry(), loop.no_previous(1)))
    return jax.lax.scan(step, (obs, *fresh), jax.random.split(key, STEPS))[0][0]
