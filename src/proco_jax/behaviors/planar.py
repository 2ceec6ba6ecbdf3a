"""A planar model of the navigation tasks in JAX, in which behavior policies learn first.

MuJoCo simulates a few thousand steps a second, this model several hundred thousand. It has the
official layouts, goals, rewards, costs and lidars, computed from positions in the plane; what it
lacks is contact physics: light objects are pushed aside, heavy ones stop the robot. A policy that
was trained in it needs a short training in the simulator to be as good there.

All functions take W worlds at once; `[W, K, 2]` are positions of K objects in meters.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from proco_jax.behaviors.planar_robot import PlanarRobot, next_motion
from proco_jax.envs.batched.layout_cache import draw
from proco_jax.envs.batched.worlds import blueprint
from proco_jax.envs.behavior_inputs import Prices, drawn_price
from proco_jax.envs.tasks import Task

_BINS = 16
_GOAL_TRIES = 12
# Seeds of the layouts; those of collections and evaluations are others.
_FIRST_LAYOUT = 4_000_000
# Distance of a robot's rim from its center in meters, as a disc.
_RADIUS = {"Point": 0.11, "Car": 0.14}
# Half the side of the box of the push tasks, and a little for its corners.
_BOX_RADIUS = 0.22
# Seconds until a gremlin is on its circle.
_GREMLIN_START = 0.12


@struct.dataclass
class Plan:
    """A task's constants and layouts.

    Attributes:
      objects: `[L, K, 2]`, positions of all objects but the agent and the goal, of L layouts.
      agents: `[L, 2]`.
      keepouts: `[K]`, what the objects keep free.
    """

    objects: jax.Array
    agents: jax.Array
    keepouts: jax.Array


class Rules(NamedTuple):
    """What does not change: see `make_plan`.

    Attributes:
      task: the task.
      kinds: name of the kind of each object, in the order of `Plan.objects`.
      goal_low: smallest coordinate of a goal.
      goal_high: largest coordinate of a goal.
      goal_size: distance at which a goal is reached.
      goal_keepout: what a goal keeps free.
      hazard_size: radius of hazards.
      step_seconds: of an environment step.
      reach: of the lidar in meters.
    """

    task: Task
    kinds: tuple[str, ...]
    goal_low: float
    goal_high: float
    goal_size: float
    goal_keepout: float
    hazard_size: float
    step_seconds: float
    reach: float

    def of(self, kind: str) -> np.ndarray:
        """Indices of the objects of a kind."""
        return np.flatnonzero(np.array(self.kinds) == kind)


class Worlds(NamedTuple):
    """The state of W worlds.

    Attributes:
      position: `[W, 2]` of the robot.
      heading: `[W]`, angle of the robot's own x axis.
      velocity: `[W, 3]` along the robot's axes, and its turn rate.
      objects: `[W, K, 2]`, where they stand, or around which they circle.
      goal: `[W, 2]`.
      button: `[W]` int, the goal among the buttons.
      timer: `[W]` int, steps for which the buttons are hidden.
      distance: `[W]` to the goal, of the robot or of the box.
      box_distance: `[W]` to the box.
      step: `[W]` int, steps in the episode.
      price: `[W]` of a violation.
    """

    position: jax.Array
    heading: jax.Array
    velocity: jax.Array
    objects: jax.Array
    goal: jax.Array
    button: jax.Array
    timer: jax.Array
    distance: jax.Array
    box_distance: jax.Array
    step: jax.Array
    price: jax.Array


class Judged(NamedTuple):
    """A step's result, `[W]` each.

    Attributes:
      reward: raw.
      cost: 0 or 1.
      ended: bool, the time limit was reached.
    """

    reward: jax.Array
    cost: jax.Array
    ended: jax.Array


def make_plan(task: Task, layouts: int) -> tuple[Rules, Plan]:
    """The constants of a navigation task, and its official layouts."""
    official = blueprint(task)
    rules, placements = official.rules, official.placements
    names = [p.name for p in placements if p.name not in ("agent", "goal")]
    kinds = tuple(name.rstrip("0123456789") for name in names)
    goal = next((p for p in placements if p.name == "goal"), None)
    drawn = [draw(official, _FIRST_LAYOUT + k).layout for k in range(layouts)]
    # A goal button is pressed, not reached.
    size = float(rules.goal.size) if goal is not None else 0.0
    return (
        Rules(
            task=task,
            kinds=kinds,
            goal_low=float(goal.low[0]) if goal else 0.0,
            goal_high=float(goal.high[0]) if goal else 0.0,
            goal_size=size,
            goal_keepout=float(goal.keepout) if goal else 0.0,
            hazard_size=float(rules.hazards.size) if "hazard" in kinds else 0.0,
            step_seconds=10.0 * float(official.model.opt.timestep),
            reach=float(rules.lidar_conf.max_dist),
        ),
        Plan(
            objects=jnp.array([[layout[name] for name in names] for layout in drawn]),
            agents=jnp.array([layout["agent"] for layout in drawn]),
            keepouts=jnp.array([p.keepout for p in placements if p.name in names]),
        ),
    )


def start(key: jax.Array, rules: Rules, plan: Plan, prices: Prices, count: int) -> Worlds:
    """Worlds at the start of episodes, each with a layout that is turned or mirrored."""
    keys = jax.random.split(key, 7)
    index = jax.random.randint(keys[0], (count,), 0, len(plan.agents))
    objects, position = plan.objects[index], plan.agents[index]
    if rules.task.kind != "Circle":
        turn = jax.random.randint(keys[1], (count,), 0, 4) * (math.pi / 2)
        mirror = jnp.where(jax.random.bernoulli(keys[2], shape=(count,)), 1.0, -1.0)
        side = jnp.stack([jnp.ones(count), mirror], axis=-1)
        objects = _rotated(objects * side[:, None], turn[:, None])
        position = _rotated(position * side, turn)
    shares, free = jax.random.uniform(keys[3], (2, count))
    worlds = Worlds(
        position=position,
        heading=jax.random.uniform(keys[4], (count,), maxval=2 * math.pi),
        velocity=jnp.zeros((count, 3)),
        objects=objects,
        goal=jnp.zeros((count, 2)),
        button=jnp.zeros(count, jnp.int32),
        timer=jnp.zeros(count, jnp.int32),
        distance=jnp.zeros(count),
        box_distance=jnp.zeros(count),
        step=jnp.zeros(count, jnp.int32),
        price=drawn_price(prices, shares, free, jnp),
    )
    begun = _with_new_goal(keys[5], rules, plan, worlds, jnp.ones(count, bool))
    return begun._replace(timer=jnp.zeros(count, jnp.int32))


def step(
    key: jax.Array, rules: Rules, plan: Plan, robot: PlanarRobot, worlds: Worlds, action: jax.Array
) -> tuple[Worlds, Judged]:
    """A step of all worlds by `[W, 2]` actions; new goals appear where one was reached."""
    kind = rules.task.kind
    before = worlds.velocity
    velocity = next_motion(robot, before, jnp.clip(action, -1.0, 1.0))
    mean = 0.5 * (before + velocity) * rules.step_seconds
    heading = worlds.heading + mean[:, 2]
    moved = worlds.position + _rotated(mean[:, :2], worlds.heading + 0.5 * mean[:, 2])
    worlds = worlds._replace(step=worlds.step + 1)
    worlds, touched = _collide(rules, worlds, moved, heading, velocity)
    if kind == "Circle":
        reward = _circling_reward(worlds)
        reached = jnp.zeros(len(reward), bool)
    elif kind == "Push":
        worlds, reward, reached = _push_reward(rules, worlds)
    else:
        distance = _distance(worlds.position, worlds.goal)
        reached = distance <= rules.goal_size
        if kind == "Button":
            reached = jnp.take_along_axis(touched["button"], worlds.button[:, None], axis=1)[:, 0]
        reward = worlds.distance - distance + reached
        worlds = worlds._replace(distance=distance)
    cost = _costs(rules, worlds, touched)
    worlds = worlds._replace(timer=jnp.maximum(worlds.timer - 1, 0))
    if kind != "Circle":
        worlds = _with_new_goal(key, rules, plan, worlds, reached)
    ended = worlds.step >= rules.task.episode_steps
    return worlds, Judged(reward, cost.astype(jnp.float32), ended)


def observe(rules: Rules, worlds: Worlds) -> jax.Array:
    """Observations `[W, O]` as the task's; sensors that the model lacks read 0."""
    count = len(worlds.heading)
    zero = jnp.zeros(count)
    vx, vy, rate = worlds.velocity.T
    found = {
        "velocimeter": jnp.stack([vx, vy, zero], axis=-1),
        "gyro": jnp.stack([zero, zero, rate], axis=-1),
        "magnetometer": jnp.stack(
            [-0.5 * jnp.sin(worlds.heading), -0.5 * jnp.cos(worlds.heading), zero], axis=-1
        ),
    }
    where = _places(rules, worlds)
    for field in rules.task.spec.rings:
        name = field.name.removesuffix("_lidar")
        if name == "goal":
            seen = worlds.goal[:, None]
        elif name == "circle":
            seen = jnp.zeros((count, 1, 2))
        else:
            own = rules.of(name if name == "push_box" else name[:-1])
            seen = where[:, own]
        ring = _lidar(seen, worlds.position, worlds.heading, rules.reach)
        if name == "buttons":
            ring = jnp.where(worlds.timer[:, None] > 0, 0.0, ring)
        found[field.name] = ring
    parts = [
        found.get(field.name, jnp.zeros((count, field.size))) for field in rules.task.spec.fields
    ]
    return jnp.concatenate(parts, axis=-1)


def _lidar(objects: jax.Array, position: jax.Array, heading: jax.Array, reach: float) -> jax.Array:
    """A ring `[W, 16]` of objects `[W, K, 2]`; see `envs/batched/lidar.py`."""
    apart = _rotated(objects - position[:, None], -heading[:, None])
    closeness = jnp.maximum(reach - jnp.linalg.norm(apart, axis=-1), 0.0) / reach
    angle = jnp.arctan2(apart[..., 1], apart[..., 0]) * (_BINS / (2 * math.pi))
    # In bins, from the beginning of each bin to the object.
    offset = (angle[..., None] - jnp.arange(_BINS)) % _BINS
    # 1 in the object's own bin, a share by angle in the two beside it.
    share = jnp.clip(jnp.where(offset < 1.0, 1.0, jnp.maximum(2.0 - offset, offset - 15.0)), 0, 1)
    return jnp.max(closeness[..., None] * share, axis=1)


def _places(rules: Rules, worlds: Worlds) -> jax.Array:
    """Where the objects are now: gremlins circle around their places."""
    moving = rules.of("gremlin")
    if not len(moving):
        return worlds.objects
    clock = worlds.step * rules.step_seconds
    # They begin in its middle.
    radius = 0.35 * jnp.minimum(clock / _GREMLIN_START, 1.0)
    circle = radius[:, None] * jnp.stack([jnp.sin(clock), jnp.cos(clock)], axis=-1)
    return worlds.objects.at[:, moving].add(circle[:, None])


def _collide(
    rules: Rules, worlds: Worlds, position: jax.Array, heading: jax.Array, velocity: jax.Array
) -> tuple[Worlds, dict[str, jax.Array]]:
    """Resolves contacts: solid objects stop the robot, light ones move out of its way.

    Returns:
      The worlds with the robot at its new place, and which objects of each kind it touches.
    """
    rim = _RADIUS[rules.task.robot]
    touched: dict[str, jax.Array] = {}
    where = _places(rules, worlds)
    objects = worlds.objects
    for kind, size in (("button", 0.1), ("gremlin", 0.1), ("pillar", 0.2)):
        own = rules.of(kind)
        if not len(own):
            continue
        apart = position[:, None] - where[:, own]
        distance = jnp.maximum(jnp.linalg.norm(apart, axis=-1), 1e-6)
        normal = apart / distance[..., None]
        depth = jnp.maximum(rim + size - distance, 0.0)
        touched[kind] = depth > 0
        position = position + jnp.sum(depth[..., None] * normal, axis=1)
        # The part of the velocity into the object is lost.
        into = _rotated(normal, -heading[:, None])
        speed = jnp.minimum(jnp.sum(into * velocity[:, None, :2], axis=-1), 0.0)
        lost = jnp.sum((speed * touched[kind])[..., None] * into, axis=1)
        velocity = velocity.at[:, :2].add(-lost)
    for kind, size in (("vase", 0.1), ("push_box", _BOX_RADIUS)):
        own = rules.of(kind)
        if not len(own):
            continue
        apart = objects[:, own] - position[:, None]
        distance = jnp.maximum(jnp.linalg.norm(apart, axis=-1), 1e-6)
        depth = jnp.maximum(rim + size - distance, 0.0)
        touched[kind] = depth > 0
        objects = objects.at[:, own].add(depth[..., None] * apart / distance[..., None])
    moved = worlds._replace(position=position, heading=heading, velocity=velocity, objects=objects)
    return moved, touched


def _costs(rules: Rules, worlds: Worlds, touched: dict[str, jax.Array]) -> jax.Array:
    """`[W]` bool, by the rules of the task and its level."""
    if rules.task.kind == "Circle":
        outside = jnp.abs(worlds.position) > 1.125
        return outside.any(axis=1) if rules.task.level == 2 else outside[:, 0]
    hazards = worlds.objects[:, rules.of("hazard")] - worlds.position[:, None]
    cost = jnp.any(jnp.linalg.norm(hazards, axis=-1) < rules.hazard_size, axis=1)
    if rules.task.kind == "Button":
        right = jnp.arange(touched["button"].shape[1]) == worlds.button[:, None]
        wrong = touched["button"] & ~right & (worlds.timer == 0)[:, None]
        cost |= wrong.any(axis=1) | touched["gremlin"].any(axis=1)
    if rules.task.level == 2 and rules.task.kind in ("Goal", "Push"):
        cost |= touched["vase" if rules.task.kind == "Goal" else "pillar"].any(axis=1)
    return cost


def _circling_reward(worlds: Worlds) -> jax.Array:
    x, y = worlds.position.T
    u, v = _rotated(worlds.velocity[:, :2], worlds.heading).T
    radius = jnp.maximum(jnp.hypot(x, y), 1e-3)
    return 0.1 * ((v * x - u * y) / radius) / (1.0 + jnp.abs(radius - 1.5))


def _push_reward(rules: Rules, worlds: Worlds) -> tuple[Worlds, jax.Array, jax.Array]:
    box = worlds.objects[:, rules.of("push_box")[0]]
    to_box, to_goal = _distance(worlds.position, box), _distance(box, worlds.goal)
    reached = to_goal <= rules.goal_size
    reward = worlds.box_distance - to_box + worlds.distance - to_goal + reached
    return worlds._replace(distance=to_goal, box_distance=to_box), reward, reached


def _with_new_goal(
    key: jax.Array, rules: Rules, plan: Plan, worlds: Worlds, chosen: jax.Array
) -> Worlds:
    """New goals in the chosen worlds, apart from all objects."""
    count = len(worlds.heading)
    if rules.task.kind == "Circle":
        return worlds
    if rules.task.kind == "Button":
        own = rules.of("button")
        drawn = jax.random.randint(key, (count,), 0, len(own))
        button = jnp.where(chosen, drawn, worlds.button)
        goal = jnp.take_along_axis(worlds.objects[:, own], button[:, None, None], axis=1)[:, 0]
        distance = jnp.where(chosen, _distance(worlds.position, goal), worlds.distance)
        timer = jnp.where(chosen, 10, worlds.timer)
        return worlds._replace(button=button, goal=goal, distance=distance, timer=timer)
    tries = jax.random.uniform(
        key, (count, _GOAL_TRIES, 2), minval=rules.goal_low, maxval=rules.goal_high
    )
    apart = jnp.linalg.norm(tries[:, :, None] - worlds.objects[:, None], axis=-1)
    # Where no try is free of all objects, the freest is taken.
    room = jnp.min(apart - plan.keepouts, axis=-1)
    agent = jnp.linalg.norm(tries - worlds.position[:, None], axis=-1) - 0.4
    room = jnp.minimum(jnp.minimum(room, agent) - rules.goal_keepout, 0.0)
    best = jnp.argmax(room, axis=1)
    found = jnp.take_along_axis(tries, best[:, None, None], axis=1)[:, 0]
    goal = jnp.where(chosen[:, None], found, worlds.goal)
    if rules.task.kind == "Goal":
        distance = jnp.where(chosen, _distance(worlds.position, goal), worlds.distance)
        return worlds._replace(goal=goal, distance=distance)
    box = worlds.objects[:, rules.of("push_box")[0]]
    distance = jnp.where(chosen, _distance(box, goal), worlds.distance)
    to_box = jnp.where(chosen, _distance(worlds.position, box), worlds.box_distance)
    return worlds._replace(goal=goal, distance=distance, box_distance=to_box)


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.linalg.norm(a - b, axis=-1)


def _rotated(vectors: jax.Array, angles: jax.Array) -> jax.Array:
    """Vectors `[..., 2]` turned counter-clockwise by angles `[...]`."""
    x, y = vectors[..., 0], vectors[..., 1]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    return jnp.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)
