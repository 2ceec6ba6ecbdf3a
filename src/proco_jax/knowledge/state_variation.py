"""Varied copies of logged states, changed in the fields that a rule reads.

Logs without violations hold no unsafe states, and a dynamics model fitted to them imagines few. A
cost network that is trained on none can predict anything there. A label depends on the state
alone, so that the labeled states need not be reachable.
"""

import re
from collections.abc import Sequence

import numpy as np

from proco_jax.observation import Field, ObservationSpec


def vary_states(
    obs: np.ndarray,
    spec: ObservationSpec,
    names: Sequence[str],
    count: int,
    seed: int,
    stretch: float = 2.0,
) -> np.ndarray:
    """Varied copies of states.

    Each named field of a copy changes with probability one half. In a ring, the nearest object
    moves to between zero and twice its distance, and in half of these cases the ring turns by
    whole bins. A vector turns, and if it has a unit is scaled by up to `stretch`. Other numbers
    are scaled likewise, and shifted by `stretch / 2` of their spread.

    Args:
      obs: `[M, O]` raw states, at least one.
      spec: their fields.
      names: fields that may change, such as those that a rule reads.
      count: how many copies.
      seed: of every draw.
      stretch: largest factor on a number with a unit.

    Returns:
      `[count, O]` float32.
    """
    rng = np.random.default_rng(seed)
    copies = np.asarray(obs, np.float32)[rng.integers(len(obs), size=count)]
    for name in names:
        field, where = spec.field(name), spec.slices[name]
        changed = rng.random(count) < 0.5
        spread = np.std(np.asarray(obs)[:, where], axis=0)
        copies[changed, where] = _change(field, copies[changed, where], spread, stretch, rng)
    return copies


def varied_fields(spec: ObservationSpec) -> tuple[str, ...]:
    """What may change where no rule tells what matters: rings, and numbers with a unit."""
    return tuple(f.name for f in spec.fields if f.kind == "ring" or _has_unit(f))


def _change(
    field: Field,
    values: np.ndarray,
    spread: np.ndarray,
    stretch: float,
    rng: np.random.Generator,
) -> np.ndarray:
    if field.kind == "ring":
        return _turn_ring(_move_nearest(field, values, rng), rng)
    factor = rng.uniform(0.0, stretch, (len(values), 1)) if _has_unit(field) else 1.0
    if field.kind == "vector":
        return _turn_vector(values, rng) * factor
    return values * factor + rng.normal(size=values.shape) * spread * (stretch / 2.0)


def _move_nearest(field: Field, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The nearest object fills a bin and shares of the two beside it: all three scale."""
    rows = np.arange(len(values))[:, None]
    top = values.argmax(axis=1)[:, None]
    closeness = values[rows, top]
    distance = np.minimum((1.0 - closeness) * rng.uniform(0.0, 2.0, closeness.shape), 1.0)
    factor = np.where(closeness > 0, (1.0 - distance) / np.maximum(closeness, 1e-6), 1.0)
    own = (top + np.array([-1, 0, 1])) % field.size
    moved = values.copy()
    moved[rows, own] = np.clip(values[rows, own] * factor, 0.0, 1.0)
    return moved


def _turn_ring(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    bins = values.shape[1]
    shift = rng.integers(bins, size=len(values)) * (rng.random(len(values)) < 0.5)
    index = (np.arange(bins)[None] - shift[:, None]) % bins
    return np.take_along_axis(values, index, axis=1)


def _turn_vector(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(-np.pi, np.pi, len(values))
    turned = values.copy()
    turned[:, 0] = np.cos(angle) * values[:, 0] - np.sin(angle) * values[:, 1]
    turned[:, 1] = np.sin(angle) * values[:, 0] + np.cos(angle) * values[:, 1]
    return turned


def _has_unit(field: Field) -> bool:
    return re.fullmatch(r"\S+", field.unit) is not None and field.kind != "ring"
