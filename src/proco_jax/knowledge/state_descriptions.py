"""Text descriptions of states, for language models."""

import math
import re

import numpy as np

from proco_jax.observation import Field, ObservationSpec
from proco_jax.rules.ring_functions import bearing_of

_LISTED = 16
_OBJECTS = 3
_SAME_OBJECT = 0.02

# Where x points: the angle from there to ahead.
_AHEAD_OF_X = {
    "ahead": 0.0,
    "forward": 0.0,
    "left": -math.pi / 2,
    "right": math.pi / 2,
    "backward": math.pi,
    "behind": math.pi,
}


def describe(obs: np.ndarray, spec: ObservationSpec) -> str:
    """One state as a few lines of text, in the units of the fields.

    A ring becomes its nearest objects with distance and direction, a vector its length and
    direction, any other field its numbers with their unit.
    Directions are counted from ahead (`front_angle`).

    Args:
      obs: `[O]` one raw observation.

    Raises:
      ValueError: if a number is not finite or there are not O of them.
    """
    obs = np.asarray(obs, np.float64)
    if obs.shape != (spec.size,) or not np.isfinite(obs).all():
        raise ValueError(f"expected {spec.size} finite numbers, found shape {obs.shape}: {obs}")
    front = front_angle(spec)
    velocity = _velocity(obs, spec)
    parts = [
        f"- {f.name}: {_field(f, obs[spec.slices[f.name]], front, velocity)}" for f in spec.fields
    ]
    return "\n".join(parts)


def front_angle(spec: ObservationSpec) -> float:
    """The direction that is ahead, in rad counter-clockwise from the agent's x axis.

    Read from the first ring whose meaning says where the x axis points, as in
    `own x axis, which points left`; without one, x is ahead.
    """
    for ring in spec.rings:
        found = re.search(r"\bx axis, which points (\w+)", ring.meaning)
        if found and found[1] in _AHEAD_OF_X:
            return _AHEAD_OF_X[found[1]]
    return 0.0


def direction_text(angle: float, front: float = 0.0) -> str:
    """An angle as `22 deg left`, `straight ahead`, or `straight behind`."""
    degrees = round(math.degrees(math.remainder(angle - front, 2 * math.pi)))
    if degrees == 0:
        return "straight ahead"
    if abs(degrees) == 180:
        return "straight behind"
    return f"{abs(degrees)} deg {'left' if degrees > 0 else 'right'}"


def _velocity(obs: np.ndarray, spec: ObservationSpec) -> np.ndarray | None:
    fields = [f for f in spec.fields if f.kind == "vector" and f.unit == "m/s"]
    return obs[spec.slices[fields[0].name]][:2] if fields else None


def _field(f: Field, values: np.ndarray, front: float, velocity: np.ndarray | None) -> str:
    if f.kind == "ring":
        return _ring(f, values, front, velocity)
    if f.kind == "vector":
        return _vector(f, values, front)
    unit = f" {f.unit}" if re.fullmatch(r"\S+", f.unit) else ""
    listed = ", ".join(_number(v) for v in values[:_LISTED])
    more = f" and {f.size - _LISTED} more" if f.size > _LISTED else ""
    return f"{listed}{unit}{more}"


def _ring(f: Field, values: np.ndarray, front: float, velocity: np.ndarray | None) -> str:
    peaks = _peaks(np.clip(values, 0.0, 1.0))
    if not peaks:
        return f"nothing within {f.reach:g} m"
    texts = []
    for number, (closeness, angle) in enumerate(peaks[:_OBJECTS]):
        text = f"{f.reach * (1 - closeness):.2f} m, {direction_text(angle, front)}"
        if number == 0 and velocity is not None:
            text = f"nearest {text}, {_closing(velocity, angle)}"
        elif number == 0:
            text = f"nearest {text}"
        texts.append(text)
    return "; then ".join(texts)


def _closing(velocity: np.ndarray, angle: float) -> str:
    speed = float(velocity[0] * math.cos(angle) + velocity[1] * math.sin(angle))
    if abs(speed) < 0.005:
        return "neither coming closer nor receding"
    return f"{'coming closer' if speed > 0 else 'receding'} at {abs(speed):.2f} m/s"


def _peaks(values: np.ndarray) -> list[tuple[float, float]]:
    """Closeness and angle of what the ring sees, nearest first.

    An object also fills the two bins beside its own, so these are taken
    together; a second object right beside a nearer one is not listed.
    """
    left, found = values.copy(), []
    while len(found) < _OBJECTS and left.max() > _SAME_OBJECT:
        top = int(np.argmax(left))
        own = [top - 1, top, (top + 1) % len(values)]
        around = np.zeros(len(values))
        around[own] = values[own]
        found.append((float(left[top]), float(np.asarray(bearing_of(around))[0])))
        left[own] = 0.0
    return found


def _vector(f: Field, values: np.ndarray, front: float) -> str:
    length = float(np.hypot(values[0], values[1]))
    unit = f" {f.unit}" if re.fullmatch(r"\S+", f.unit) else ""
    where = f" towards {direction_text(math.atan2(values[1], values[0]), front)}"
    text = f"{_number(length)}{unit}{where if length >= 0.005 else ''} in the plane"
    return text + (f", {_number(values[2])}{unit} up" if f.size > 2 else "")


def _number(value: float) -> str:
    text = f"{value:.2f}" if abs(value) < 1000 else f"{value:.3g}"
    return "0.00" if text == "-0.00" else text
