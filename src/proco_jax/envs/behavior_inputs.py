"""What a behavior policy sees of an observation, and the prices of a violation that it knows.

A function of the observation alone, without parameters, in NumPy for recording and in JAX for
training. Sensors that are mostly noise to a policy are left out; of every ring the direction of
its nearest object is added, from which steering is a linear function.
"""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from proco_jax.envs.tasks import Task

PRICE_INPUTS = 6
# Of normalized inputs, in standard deviations.
INPUT_CLIP = 5.0
_BINS = 16
# Rings that show a single object, whose position follows exactly.
_SINGLE = ("goal_lidar", "push_box_lidar", "circle_lidar")
# Columns of the sensors that a planar robot needs.
_PLANAR = {"velocimeter": slice(0, 2), "gyro": slice(2, 3), "magnetometer": slice(0, 2)}


class Prices(NamedTuple):
    """The prices of a step with a cost, in units of the reference's mean reward of a step.

    Attributes:
      low: smallest price above 0.
      high: largest price.
      free: share of the episodes in which violations cost nothing.
    """

    low: float
    high: float
    free: float = 0.1


NAVIGATION_PRICES = Prices(0.5, 100.0)
VELOCITY_PRICES = Prices(0.05, 50.0)


def prices_of(task: Task) -> Prices:
    """The prices of a task: those of navigation or those of velocity."""
    return VELOCITY_PRICES if task.kind == "Velocity" else NAVIGATION_PRICES


def price_at(prices: Prices, share: Any) -> Any:
    """The price at a share in [0, 1] of the range, log-uniform for uniform shares."""
    return prices.low * (prices.high / prices.low) ** share


def drawn_price(prices: Prices, share: Any, free: Any, xp: ModuleType = np) -> Any:
    """The price of an episode, for numbers `share` and `free` that are uniform in [0, 1]."""
    return xp.where(free < prices.free, 0.0, price_at(prices, share))


def price_input(prices: Prices, price: Any, xp: ModuleType = np) -> Any:
    """Prices `[...]` as networks see them: `[..., PRICE_INPUTS]`.

    On a logarithmic scale from 0, where violations are free, to the highest price there are so many
    marks in equal distances; an input falls from 1 at its mark to 0 at the next ones. A single
    number instead would hardly move a network that has 60 other inputs.
    """
    place = xp.log1p(price / prices.low) / np.log1p(prices.high / prices.low)
    marks = xp.arange(PRICE_INPUTS) / (PRICE_INPUTS - 1)
    apart = xp.abs(place[..., None] - marks) * (PRICE_INPUTS - 1)
    return xp.clip(1.0 - apart, 0.0, 1.0)


def reward_unit(task: Task) -> float:
    """The mean reward of a step in an episode of the reference's maximum return."""
    return task.reference_max / task.episode_steps


def policy_inputs(task: Task, obs: Any, xp: ModuleType = np) -> Any:
    """The inputs `[..., F]` of a policy for raw observations `[..., O]`.

    Args:
      task: whose observations these are.
      obs: in NumPy or JAX.
      xp: the module that does the arithmetic, `numpy` or `jax.numpy`.
    """
    fields = {name: obs[..., where] for name, where in task.spec.slices.items()}
    if task.kind == "Velocity":
        return obs
    parts = [fields[name][..., where] for name, where in _PLANAR.items()]
    for ring in (field.name for field in task.spec.rings):
        closeness, x, y = nearest(fields[ring], xp)
        parts += [fields[ring], (closeness * x)[..., None], (closeness * y)[..., None]]
        if ring in _SINGLE:
            away = xp.where(closeness > 0, 1.0 - closeness, 0.0)
            parts += [(away * x)[..., None], (away * y)[..., None]]
    if task.kind == "Circle":
        parts.append(_in_the_world(fields, xp))
    return xp.concatenate(parts, axis=-1)


def nearest(ring: Any, xp: ModuleType) -> tuple[Any, Any, Any]:
    """Closeness `[...]` and direction x, y of the nearest object of rings `[..., 16]`."""
    index = xp.argmax(ring, axis=-1)
    closeness = xp.max(ring, axis=-1)
    following = xp.take_along_axis(ring, ((index + 1) % _BINS)[..., None], axis=-1)[..., 0]
    share = following / xp.maximum(closeness, 1e-6)
    angle = 2 * np.pi * (index + share) / _BINS
    return closeness, xp.cos(angle), xp.sin(angle)


def _in_the_world(fields: dict[str, Any], xp: ModuleType) -> Any:
    """Position, in units of the lidar's reach, and velocity `[..., 4]` along the world's axes."""
    closeness, x, y = nearest(fields["circle_lidar"], xp)
    compass, velocity = fields["magnetometer"], fields["velocimeter"]
    length = xp.maximum(xp.hypot(compass[..., 0], compass[..., 1]), 1e-6)
    # The compass shows the world's -y axis; the robot's x axis has the angle h.
    sine, cosine = -compass[..., 0] / length, -compass[..., 1] / length
    away = xp.where(closeness > 0, 1.0 - closeness, 0.0)

    def turned(x: Any, y: Any) -> list[Any]:
        return [cosine * x - sine * y, sine * x + cosine * y]

    parts = turned(-away * x, -away * y) + turned(velocity[..., 0], velocity[..., 1])
    return xp.stack(parts, axis=-1)
