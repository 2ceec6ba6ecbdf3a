"""How a Point or Car moves on free floor, fitted to the simulator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from proco_jax.envs.tasks import Task, get_task
from proco_jax.envs.vector import make_vector_env
from proco_jax.models.adam_fit import adam_fit
from proco_jax.types import Array

_WORLDS, _STEPS = 16, 600
_HIDDEN = 48
_FIT_STEPS, _BATCH = 3000, 512
_FIRST_SEED = 3_000_000
# Motors saturate at a few percent of the largest action.
_STEEPNESS = (20.0, 50.0)


@struct.dataclass
class PlanarRobot:
    """The next velocity as a linear function and a small network of velocity and action.

    Attributes:
      scale: `[3]`, of velocities.
      change: `[3]`, of their changes in a step.
      params: of the function.
    """

    scale: jax.Array
    change: jax.Array
    params: dict[str, jax.Array]


def next_motion(robot: PlanarRobot, velocity: Array, action: Array) -> jax.Array:
    """Velocities `[W, 3]` along x, y and about z after a step, from those before it."""
    rows = _features(robot.scale, velocity, action)
    return velocity + robot.change * _network(robot.params, rows)


def fit_robot(task: Task, log: Callable[[str], None]) -> PlanarRobot:
    """Fits the motion of a task's robot to random actions on the free floor of its circle task."""
    before, action, after = _drive(get_task(f"{task.robot}Circle1"))
    scale = jnp.asarray(before.std(0), jnp.float32)
    change = jnp.asarray((after - before).std(0), jnp.float32)
    rows = _features(scale, before, action)
    target = jnp.asarray((after - before) / change, jnp.float32)
    one, two = jax.random.split(jax.random.key(0))
    params = {
        "linear": jnp.zeros((rows.shape[1], 3)),
        "hidden": 0.3 * jax.random.normal(one, (rows.shape[1], _HIDDEN)),
        "bias": jnp.zeros(_HIDDEN),
        "out": jnp.zeros((_HIDDEN, 3)),
        "shift": jnp.zeros(3),
    }
    tested = len(rows) // 10

    def loss(params: dict[str, jax.Array], own: jax.Array) -> jax.Array:
        return jnp.mean(jnp.abs(_network(params, rows[own]) - target[own]))

    def drawn_loss(params: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        return loss(params, jax.random.randint(key, (_BATCH,), tested, len(rows)))

    @jax.jit
    def fit(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return adam_fit(drawn_loss, params, 5e-3, jax.random.split(two, _FIT_STEPS))

    params = fit(params)
    error = float(loss(params, jnp.arange(tested)))
    log(f"motion of the {task.robot}: mean error {error:.1%} of the change in a step")
    return PlanarRobot(scale, change, params)


def _features(scale: Array, velocity: Array, action: Array) -> jax.Array:
    steep = [jnp.clip(factor * jnp.asarray(action), -1.0, 1.0) for factor in _STEEPNESS]
    return jnp.concatenate([jnp.asarray(velocity) / scale, action, *steep], axis=-1)


def _network(params: dict[str, jax.Array], rows: jax.Array) -> jax.Array:
    hidden = jnp.tanh(rows @ params["hidden"] + params["bias"])
    return rows @ params["linear"] + hidden @ params["out"] + params["shift"]


def _drive(task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Velocities before `[M, 3]`, actions `[M, 2]` and velocities after, of random driving."""
    random = np.random.default_rng(0)
    env = make_vector_env(task, _WORLDS, "batched", 1)
    where = task.spec.slices
    linear, turn = where["velocimeter"].start, where["gyro"].start + 2
    columns = [linear, linear + 1, turn]
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    held = np.zeros((_WORLDS, 2), np.float32)
    try:
        obs = env.reset(range(_FIRST_SEED, _FIRST_SEED + _WORLDS))
        for k in range(_STEPS):
            if k and k % task.episode_steps == 0:
                first = _FIRST_SEED + (k // task.episode_steps) * _WORLDS
                obs = env.reset(range(first, first + _WORLDS))
            new = random.random(_WORLDS) < 0.1
            size = random.choice([0.03, 0.3, 1.0], (int(new.sum()), 1))
            held[new] = size * random.uniform(-1, 1, (int(new.sum()), 2))
            noise = 0.5 * random.normal(size=held.shape) * (random.random(_WORLDS) < 0.5)[:, None]
            action = np.clip(held + noise, -1.0, 1.0).astype(np.float32)
            after = env.step(action).obs
            rows.append((obs[:, columns].copy(), action, after[:, columns].copy()))
            obs = after
    finally:
        env.close()
    before, action, after = (np.concatenate(part) for part in zip(*rows, strict=True))
    order = random.permutation(len(before))
    return before[order], action[order], after[order]
