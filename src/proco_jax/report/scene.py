"""What an episode looks like: the places of things, read from the official simulator."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from proco_jax.envs.official import step_official
from proco_jax.envs.simulator import make_official
from proco_jax.envs.tasks import Task

# Every kind of thing, as the simulator's task calls it.
KINDS = ("hazards", "pillars", "vases", "gremlins", "buttons", "goal", "push_box")


@dataclasses.dataclass(frozen=True)
class Scene:
    """One moment of an episode.

    Attributes:
      step: steps taken.
      episode_return: rewards so far.
      cost: costs so far.
      violating: whether this moment costs.
      robot: x, y in metres and the heading in radians; for velocity tasks x, z
        and the speed in m/s.
      places: of each kind of thing there is, `[K, 3]`: x, y, angle.
      target: index of the button to press, or None.
      bones: `[B, 2, 2]`, from (x, z) of a joint to (x, z) of the next; empty
        but for velocity tasks.
    """

    step: int
    episode_return: float
    cost: float
    violating: bool
    robot: tuple[float, float, float]
    places: dict[str, np.ndarray]
    target: int | None
    bones: np.ndarray


@dataclasses.dataclass(frozen=True)
class Recording:
    """An episode to be drawn.

    Attributes:
      task: what was played.
      seed: of the episode.
      scenes: in order, some steps apart.
      sizes: radius, or half the side, of each kind of thing, metres.
      circle: radius of the circle to run along, 0 if there is none.
      walls: distances from the middle that |x| and |y| may not pass, or None.
    """

    task: Task
    seed: int
    scenes: list[Scene]
    sizes: dict[str, float]
    circle: float
    walls: tuple[float | None, float | None]


def record_episode(task: Task, act: Callable[..., Any], seed: int, stride: int = 5) -> Recording:
    """Plays one episode in the official environment and looks at it every few steps.

    Args:
      task: what to play.
      act: as for `evaluate_policies`, here with one policy and one world: `act(obs
        [1, 1, O], episode_seeds [1, 1], steps [1, 1]) -> actions [1, 1, A]`.
      seed: of the episode.
      stride: steps from one look to the next.

    Raises:
      ImportError: if the simulator isn't installed.
    """
    env = make_official(task)
    try:
        obs, _ = env.reset(seed=seed)
        scenes = [_look(env, 0, 0.0, 0.0, violating=False)]
        total, costs, over, violating, step = 0.0, 0.0, False, False, 0
        while not over:
            inputs = np.asarray(obs, np.float32)[None, None]
            action = act(inputs, np.full((1, 1), seed, np.int32), np.full((1, 1), step, np.int32))
            action = np.asarray(action, np.float32)[0, 0]
            obs, reward, cost, terminated, truncated, failed = step_official(env, action)
            step, total, costs = step + 1, total + reward, costs + cost
            over, violating = terminated or truncated, violating or cost > 0
            if (over or step % stride == 0) and not failed:
                scenes.append(_look(env, step, total, costs, violating))
                violating = False
        inner = getattr(env.unwrapped, "task", None)
        return Recording(task, seed, scenes, _sizes(inner), *_borders(inner))
    finally:
        env.close()


def _look(env: Any, step: int, total: float, costs: float, violating: bool) -> Scene:
    inner = getattr(env.unwrapped, "task", None)
    if inner is None:
        robot, bones, places, target = *_skeleton(env.unwrapped), {}, None
    else:
        robot, bones = _pose(inner), np.zeros((0, 2, 2))
        places = {kind: _places(inner, kind) for kind in KINDS if hasattr(inner, kind)}
        target = inner.buttons.goal_button if hasattr(inner, "buttons") else None
    return Scene(step, total, costs, violating, robot, places, target, bones)


def _pose(inner: Any) -> tuple[float, float, float]:
    x, y = inner.agent.pos[:2]
    # The Car drives along its own -y, every other robot along its x.
    column = -inner.agent.mat[:2, 1] if "Car" in type(inner.agent).__name__ else None
    ahead = inner.agent.mat[:2, 0] if column is None else column
    return float(x), float(y), float(np.arctan2(ahead[1], ahead[0]))


def _places(inner: Any, kind: str) -> np.ndarray:
    positions = np.atleast_2d(np.array(getattr(inner, kind).pos))[:, :2]
    angles = [_angle(inner, _body(kind, i)) for i in range(len(positions))]
    return np.column_stack([positions, angles])


def _body(kind: str, index: int) -> str:
    """The simulator's name of a thing."""
    if kind in ("goal", "push_box"):
        return kind
    return f"{kind[:-1]}{index}" + ("obj" if kind == "gremlins" else "")


def _angle(inner: Any, name: str) -> float:
    rotation = inner.data.body(name).xmat.reshape(3, 3)
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def _skeleton(inner: Any) -> tuple[tuple[float, float, float], np.ndarray]:
    """The torso and lines from every body's joint to those of its children, seen from the side."""
    places = inner.data.xpos[:, [0, 2]].copy()
    parents = inner.model.body_parentid
    bones = [(places[parents[i]], places[i]) for i in range(2, len(places))]
    tips = [_tip(inner, i) for i in range(1, len(places))]
    torso = places[1]
    speed = float(inner.data.qvel[0])
    return (float(torso[0]), float(torso[1]), speed), np.array([*bones, *tips])


def _tip(inner: Any, body: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a body's last geometry ends, from its joint."""
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
