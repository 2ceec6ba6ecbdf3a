"""The positions of all objects during an episode, read from the official simulator."""

import dataclasses
from typing import Any

import numpy as np

from proco_jax.envs.episodes import Observed
from proco_jax.envs.official import step_official
from proco_jax.envs.simulator import make_official
from proco_jax.envs.tasks import Task
from proco_jax.evaluation.episodes import Player

# Every kind of object, by its name in the simulator's task.
KINDS = ("hazards", "pillars", "vases", "gremlins", "buttons", "goal", "push_box")


@dataclasses.dataclass(frozen=True)
class Scene:
    """One frame of an episode.

    Attributes:
      step: steps taken.
      episode_return: sum of rewards so far.
      cost: sum of costs so far.
      violating: whether a step since the previous frame had a cost.
      robot: x, y in meters and the heading in radians; for velocity tasks x, z
        and the speed in m/s.
      objects: of each kind of object in the task, `[K, 3]`: x, y, angle.
      target: index of the button to press, or None.
      bones: `[B, 2, 2]`, from (x, z) of a joint to (x, z) of the next; empty
        except for velocity tasks.
    """

    step: int
    episode_return: float
    cost: float
    violating: bool
    robot: tuple[float, float, float]
    objects: dict[str, np.ndarray]
    target: int | None
    bones: np.ndarray


@dataclasses.dataclass(frozen=True)
class Recording:
    """The frames of an episode and what does not change in it.

    Attributes:
      task: the task.
      seed: of the episode.
      scenes: the frames in order.
      sizes: radius, or half the side, of each kind of object, meters.
      circle: radius of the circle to run along, 0 if there is none.
      walls: largest allowed |x| and |y|, meters, or None.
    """

    task: Task
    seed: int
    scenes: list[Scene]
    sizes: dict[str, float]
    circle: float
    walls: tuple[float | None, float | None]


def record_episode(task: Task, player: Player, seed: int, stride: int = 5) -> Recording:
    """Runs one episode in the official environment and records every `stride`-th step.

    Args:
      task: the task.
      player: of one policy.
      seed: of the episode.
      stride: steps between two frames.

    Raises:
      ImportError: if the simulator is not installed.
    """
    env = make_official(task)
    try:
        obs, _ = env.reset(seed=seed)
        scenes = [_scene(env, 0, 0.0, 0.0, violating=False)]
        total, costs, over, violating, step = 0.0, 0.0, False, False, 0
        carry, action = player.initial_carry(1, 1), np.zeros(task.action_size, np.float32)
        reward = cost = 0.0
        while not over:
            observed = Observed(
                obs=np.asarray(obs, np.float32)[None, None],
                reward=np.full((1, 1), reward, np.float32),
                cost=np.full((1, 1), cost, np.float32),
                action=action[None, None],
                seeds=np.full((1, 1), seed, np.int32),
                steps=np.full((1, 1), step, np.int32),
                active=np.ones((1, 1), bool),
            )
            actions, carry = player.act(carry, observed)
            action = np.asarray(actions, np.float32)[0, 0]
            obs, reward, cost, terminated, truncated, failed = step_official(env, action)
            step, total, costs = step + 1, total + reward, costs + cost
            over, violating = terminated or truncated, violating or cost > 0
            if (over or step % stride == 0) and not failed:
                scenes.append(_scene(env, step, total, costs, violating))
                violating = False
        inner = getattr(env.unwrapped, "task", None)
        return Recording(task, seed, scenes, _sizes(inner), *_borders(inner))
    finally:
        env.close()


def _scene(env: Any, step: int, total: float, costs: float, violating: bool) -> Scene:
    inner = getattr(env.unwrapped, "task", None)
    if inner is None:
        robot, bones, objects, target = *_skeleton(env.unwrapped), {}, None
    else:
        robot, bones = _pose(inner), np.zeros((0, 2, 2))
        objects = {kind: _poses(inner, kind) for kind in KINDS if hasattr(inner, kind)}
        target = inner.buttons.goal_button if hasattr(inner, "buttons") else None
    return Scene(step, total, costs, violating, robot, objects, target, bones)


def _pose(inner: Any) -> tuple[float, float, float]:
    x, y = inner.agent.pos[:2]
    # The Car drives along its own -y, every other robot along its x.
    column = -inner.agent.mat[:2, 1] if "Car" in type(inner.agent).__name__ else None
    ahead = inner.agent.mat[:2, 0] if column is None else column
    return float(x), float(y), float(np.arctan2(ahead[1], ahead[0]))


def _poses(inner: Any, kind: str) -> np.ndarray:
    positions = np.atleast_2d(np.array(getattr(inner, kind).pos))[:, :2]
    angles = [_angle(inner, _body(kind, i)) for i in range(len(positions))]
    return np.column_stack([positions, angles])


def _body(kind: str, index: int) -> str:
    """The simulator's name of an object."""
    if kind in ("goal", "push_box"):
        return kind
    return f"{kind[:-1]}{index}" + ("obj" if kind == "gremlins" else "")


def _angle(inner: Any, name: str) -> float:
    rotation = inner.data.body(name).xmat.reshape(3, 3)
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def _skeleton(inner: Any) -> tuple[tuple[float, float, float], np.ndarray]:
    """The torso, and lines from each body's joint to those of its children, in the x-z plane."""
    places = inner.data.xpos[:, [0, 2]].copy()
    parents = inner.model.body_parentid
    bones = [(places[parents[i]], places[i]) for i in range(2, len(places))]
    tips = [_tip(inner, i) for i in range(1, len(places))]
    torso = places[1]
    speed = float(inner.data.qvel[0])
    return (float(torso[0]), float(torso[1]), speed), np.array([*bones, *tips])


def _tip(inner: Any, body: int) -> tuple[np.ndarray, np.ndarray]:
    """The line from a body's joint to the end of its last geometry."""
    geom = inner.model.body_geomadr[body] + inner.model.body_geomnum[body] - 1
    axis = inner.data.geom_xmat[geom].reshape(3, 3)[:, 2] * inner.model.geom_size[geom][1]
    middle = inner.data.geom_xpos[geom]
    return (middle - axis)[[0, 2]], (middle + axis)[[0, 2]]


def _sizes(inner: Any) -> dict[str, float]:
    kinds = [kind for kind in KINDS if hasattr(inner, kind)]
    return {kind: float(getattr(inner, kind).size) for kind in kinds}


def _borders(inner: Any) -> tuple[float, tuple[float | None, float | None]]:
    circle = float(inner.circle.radius) if hasattr(inner, "circle") else 0.0
    if not hasattr(inner, "sigwalls"):
        return circle, (None, None)
    wall = float(inner.sigwalls.locate_factor)
    return circle, (wall, wall if inner.sigwalls.num == 4 else None)
