"""The direction in which a lidar controller moves, for each kind of task.

Vectors in the robot's frame are complex numbers, x + iy, one for each row.
"""

import numpy as np

from proco_jax.envs.tasks import Task

_BINS = 16
# The middle of each bin: bin i covers the angles from 2 pi i / 16 to 2 pi (i + 1) / 16.
_DIRECTIONS = np.exp(2j * np.pi * (np.arange(_BINS) + 0.5) / _BINS)
# Rings of obstacles, each with how much farther out than at a hazard of 0.2 m
# radius, crossed by the robot's center, the cost begins, in meters.
_OBSTACLES = {
    "Goal": {"hazards_lidar": 0.0, "vases_lidar": 0.1},
    "Button": {"hazards_lidar": 0.0, "gremlins_lidar": 0.15, "buttons_lidar": 0.1},
    "Push": {"hazards_lidar": 0.1, "pillars_lidar": 0.15},
}
# Share of the repulsion that acts across the line of sight, around an obstacle.
_AROUND = 0.5
_WALL = 1.125


def heading_vector(
    task: Task, fields: dict[str, np.ndarray], gain: np.ndarray, threshold: np.ndarray
) -> np.ndarray:
    """`[N]` complex direction to move in, seen from the robot.

    Args:
      task: a Point or Car navigation task.
      fields: the observations by field, `[N, size]` each.
      gain, threshold: `[N]` each, see `controllers.Controller`.
    """
    if task.kind == "Circle":
        return _along_circle(task, fields, gain, threshold)
    lidars = {f.name: fields[f.name] for f in task.spec.rings}
    target = _push_box(lidars) if task.kind == "Push" else locate(lidars["goal_lidar"], 3.0)
    crowd = sum(lidars.values()) @ _DIRECTIONS
    goal = _unit(np.where(np.isnan(target), crowd, target))
    if task.kind == "Button":
        dark = (lidars["buttons_lidar"].max(axis=1) == 0) & (gain > 0)
        lidars["buttons_lidar"] = wrong_buttons(lidars["buttons_lidar"], lidars["goal_lidar"])
    direction = goal - gain * _push(_nearness(task, lidars, threshold), goal)
    if task.kind == "Button":
        # The ring of the buttons is 0 right after a press: back off the button,
        # which is most likely a wrong one from then on.
        direction = np.where(dark, -2.0 * forward_axis(task), direction)
    return direction


def forward_axis(task: Task) -> complex:
    """The direction in which the robot drives: its x axis, or a Car's own -y axis."""
    return -1j if task.robot == "Car" else 1.0 + 0j


def _nearness(task: Task, lidars: dict[str, np.ndarray], threshold: np.ndarray) -> np.ndarray:
    """`[N, 16]` closeness beyond the threshold, scaled to 1 for an obstacle at distance 0."""
    beyond = np.zeros((len(threshold), _BINS))
    for name, clearance in _OBSTACLES[task.kind].items():
        if name == "vases_lidar" and task.level == 1:
            continue  # The only vase of Goal1 has no cost.
        ring = lidars[name]
        beyond += np.maximum(ring + clearance / 3.0 * (ring > 0) - threshold[:, None], 0.0)
    return beyond / (1 - threshold[:, None])


def _push(nearness: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """`[N]` complex vector toward the obstacles, and partly around them, to be subtracted.

    The part across the line of sight turns to the side on which the goal is, so
    that the robot passes obstacles instead of stopping before them.
    """
    # Straight ahead counts as left, so that the robot does not oscillate before an obstacle.
    side = np.where(np.imag(_DIRECTIONS * np.conj(goal)[:, None]) > -0.2, 1.0, -1.0)
    return 2.0 * ((nearness * (1 + 1j * _AROUND * side)) @ _DIRECTIONS)


def locate(lidar: np.ndarray, reach: float) -> np.ndarray:
    """The position of the only object of a ring.

    The bins beside the brightest one share its value by angle, so that the
    position follows exactly.

    Args:
      lidar: `[N, 16]`, of one object.
      reach: its reach in meters.

    Returns:
      `[N]` complex positions in meters, NaN where the object is out of reach.
    """
    rows = np.arange(len(lidar))
    bin_index = lidar.argmax(axis=1)
    peak = lidar[rows, bin_index].astype(float)
    share = lidar[rows, (bin_index + 1) % _BINS] / np.maximum(peak, 1e-9)
    angle = 2 * np.pi * (bin_index + share) / _BINS
    return np.where(peak > 0, reach * (1 - peak) * np.exp(1j * angle), np.nan)


def wrong_buttons(buttons: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The ring of the buttons without the bins in which the goal button is nearest."""
    return np.where(buttons > goal + 1e-6, buttons, 0.0)


def _push_box(lidars: dict[str, np.ndarray]) -> np.ndarray:
    """Around the box to its far side from the goal, then against it.

    The line from the box to the goal is the x axis of a frame for the direction:
    a circle around the box, and behind it a course onto the line.
    """
    box, goal = locate(lidars["push_box_lidar"], 3.0), locate(lidars["goal_lidar"], 3.0)
    line = _unit(goal - box)
    robot = -box * np.conj(line)
    outward, angle = _unit(robot), np.angle(-robot)
    circling = -1j * np.sign(angle) * outward + 4.0 * (0.5 - np.abs(robot)) * outward
    across = np.imag(robot)
    pushing = np.clip(1 - np.abs(across) / 0.2, 0.1, 1.0) - 4j * across
    direction = np.where(np.abs(angle) < 0.5, pushing, circling) * line
    return np.where(np.isnan(goal), box, direction)


def _along_circle(
    task: Task, fields: dict[str, np.ndarray], gain: np.ndarray, threshold: np.ndarray
) -> np.ndarray:
    """Counter-clockwise along the circle, held back by the walls that no sensor shows."""
    center = locate(fields["circle_lidar"], 6.0)
    compass = fields["magnetometer"]
    # The world's x axis seen from the robot: the compass shows its -y axis.
    x_axis = _unit((compass[:, 0] + 1j * compass[:, 1]) * 1j)
    velocity = fields["velocimeter"]
    position = -center * np.conj(x_axis)
    motion = (velocity[:, 0] + 1j * velocity[:, 1]) * np.conj(x_axis)
    radius = np.abs(position)
    outward = _unit(position)
    direction = 1j * outward + 2.0 * (1.5 - radius) * outward
    soon = position + 0.3 * motion
    margin = 1 - threshold
    push_x = gain * _beyond(soon.real, margin)
    push_y = gain * _beyond(soon.imag, margin) if task.level == 2 else 0.0
    return np.where(
        np.isnan(center), forward_axis(task), (direction - push_x - 1j * push_y) * x_axis
    )


def _beyond(coordinate: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Signed depth in the margin before a wall: 0 at its beginning, 1 at the wall."""
    depth = (np.abs(coordinate) - (_WALL - margin)) / margin
    return np.sign(coordinate) * np.maximum(depth, 0.0)


def _split(vector: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turned = vector * np.conj(direction)
    return np.real(turned), np.imag(turned)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.abs(vector)
    return vector / np.where(length > 1e-9, length, 1.0)
