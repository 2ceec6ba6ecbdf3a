"""Observations at grid positions around one hazard, for maps of a critic's values."""

import numpy as np

from proco_jax.observation import ObservationSpec

# Rings that are set to 0, so that the hazard is the only obstacle.
_OBSTACLES = ("hazards_lidar", "vases_lidar", "gremlins_lidar", "pillars_lidar")


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
    """Observations of a robot that heads along +x, at each position around a hazard at the origin.

    Only the obstacle rings and the velocimeter are computed. All other fields, the
    goal among them, are copied from `base`; the states are therefore synthetic.

    Args:
      spec: the fields of an observation; `ring` must be one of them.
      base: `[O]`, the observation whose other fields are copied.
      xs: `[X]` positions of the robot, meters.
      ys: `[Y]` positions of the robot, meters.
      ahead: angle of the robot's forward direction in its own frame: 0 for
        Point, -pi/2 for Car.
      speed: forward speed of the robot, m/s.
      ring: the field that shows the hazard.

    Returns:
      `[Y, X, O]` float32.

    Raises:
      KeyError: if `spec` has no field `ring`.
    """
    field, slices = spec.field(ring), spec.slices
    states = np.broadcast_to(base, (len(ys), len(xs), spec.size)).astype(np.float32)
    for name in _OBSTACLES:
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
    """The reading of a lidar ring with one object.

    The object's bin reads its closeness. The two adjacent bins read it in
    proportion to how close the object is to their side (alias of
    Safety-Gymnasium's pseudo lidar).

    Args:
      distance: `[...]` meters.
      angle: `[...]` radians in the agent's frame.
      bins: number of bins.
      reach: distance in meters from which a bin reads 0.

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
