"""States on a grid around one hazard, for a map of what a critic thinks of them."""

import numpy as np

from proco_jax.observation import ObservationSpec

# Rings that are emptied, so that the one hazard is all there is to avoid.
OBSTACLES = ("hazards_lidar", "vases_lidar", "gremlins_lidar", "pillars_lidar")


def states_around_hazard(
    spec: ObservationSpec,
    base: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    *,
    ahead: float = 0.0,
    speed: float = 0.0,
    ring: str = "hazards_lidar",
) -> np.ndarray:
    """A robot that heads along +x, at every place around a hazard at the origin.

    Only what the obstacle rings and the velocimeter read is computed; every
    other field is taken from a logged observation, so the states are made up
    and their goal lies where it lay in that observation.

    Args:
      spec: the fields; `ring` must be one of them.
      base: `[O]`, the observation that is changed.
      xs: `[X]` places of the robot, metres.
      ys: `[Y]`.
      ahead: angle of the robot's forward direction in its own frame: 0 for
        Point, -pi/2 for Car.
      speed: of the robot, forward, m/s.
      ring: the field that shows the hazard.

    Returns:
      `[Y, X, O]` float32.

    Raises:
      KeyError: if there is no such ring.
    """
    field, slices = spec.field(ring), spec.slices
    states = np.broadcast_to(base, (len(ys), len(xs), spec.size)).astype(np.float32)
    for name in OBSTACLES:
        if name in slices:
            states[..., slices[name]] = 0.0
    x, y = np.meshgrid(xs, ys)
    angle = np.arctan2(-y, -x) + ahead
    states[..., slices[ring]] = ring_reading(np.hypot(x, y), angle, field.size, field.reach)
    if "velocimeter" in slices:
        start = slices["velocimeter"].start
        states[..., start] = speed * np.cos(ahead)
        states[..., start + 1] = speed * np.sin(ahead)
    return states


def ring_reading(distance: np.ndarray, angle: np.ndarray, bins: int, reach: float) -> np.ndarray:
    """What a lidar ring reads of one object.

    The object's bin reads its closeness; the neighbours read it in proportion
    to how near the object lies to their side (Safety-Gymnasium's alias).

    Args:
      distance: `[...]` metres.
      angle: `[...]` radians in the agent's frame.
      bins: of the ring.
      reach: distance in metres from which a bin reads 0.

    Returns:
      `[..., bins]`.
    """
    place = np.mod(angle, 2 * np.pi) / (2 * np.pi / bins)
    middle = np.floor(place).astype(int) % bins
    alias = place - np.floor(place)
    closeness = np.maximum(0.0, reach - distance) / reach
    index = np.arange(bins)
    share = (index == middle[..., None]) * 1.0
    share += (index == (middle[..., None] + 1) % bins) * alias[..., None]
    share += (index == (middle[..., None] - 1) % bins) * (1 - alias[..., None])
    return share * closeness[..., None]
