"""What a ring, such as a lidar, shows after the agent has moved.

The bins of a ring change in ways that are hard to learn from examples: while an object passes
through a bin, the bin keeps its value and the two beside it change in proportion, until the object
enters the next bin. But what happens follows from geometry. The nearest object in a bin has a
distance and a direction, a motion of the agent by dx, dy and a turn moves it in the agent's frame,
and the ring shows it there. A network has to learn only the motion, which all rings share, and the
rest: objects that move, appear, or hide one another.

A ring is read as Safety-Gymnasium's lidars are: an object of closeness c, at the fraction a of the
way through its bin, shows as c there, as a c in the next bin and as (1 - a) c in the one before.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.types import Array

# Bins by which an object may move in one step.
LARGEST_SHIFT = 1.0


def moved(rings: Array, reach: Array, motion: Array) -> tuple[jax.Array, jax.Array]:
    """The change of rings by a motion of the agent, and what they show of single objects.

    Only bins that are larger than those beside them count as objects. Where several are near, what
    hides behind the nearest is not moved.

    Args:
      rings: `[..., n, R]` closeness in [0, 1], by bin and ring.
      reach: `[R]` distance in meters at which a bin reads 0.
      motion: `[..., 3]` of the agent in its own frame: ahead and left in meters, turn to the left
        in rad.

    Returns:
      The change `[..., n, R]`, and `[..., n, R]` what the rings would show of these objects alone.
    """
    bins = rings.shape[-2]
    width = 2.0 * math.pi / bins
    ahead, behind = jnp.roll(rings, -1, axis=-2), jnp.roll(rings, 1, axis=-2)
    is_object = (rings >= ahead) & (rings > behind) & (rings > 1e-6)
    # The bin ahead tells it, and so does the bin behind, unless another object shows there.
    by_ahead, by_behind = fractions_by_neighbors(rings, axis=-2)
    fraction = 0.5 * (by_ahead + by_behind)
    closeness = jnp.where(is_object, rings, 0.0)
    before = show_objects(closeness, fraction, 1, axis=-2)
    angle = (jnp.arange(bins)[:, None] + fraction) * width
    distance = reach * (1.0 - rings)
    dx, dy, turn = (motion[..., i, None, None] for i in range(3))
    # Where the object is then: in the direction in which it was, and to the left of that.
    along = distance - (dx * jnp.cos(angle) + dy * jnp.sin(angle))
    across = dx * jnp.sin(angle) - dy * jnp.cos(angle)
    far = jnp.sqrt(jnp.square(along) + jnp.square(across) + 1e-8)
    # An object that is run over has no direction; a step does not pass it.
    shift = (jnp.arctan2(across, jnp.maximum(along, 0.02)) - turn) / width
    shift = jnp.clip(shift, -LARGEST_SHIFT, LARGEST_SHIFT)
    closeness = jnp.where(is_object, jnp.clip(1.0 - far / reach, 0.0, 1.0), 0.0)
    return show_objects(closeness, fraction + shift, 2, axis=-2) - before, before


def fractions_by_neighbors(rings: Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """How far through its bin the object of each bin is, in [0, 1]: as told by the bin ahead, and
    as told by the bin behind. They agree unless one of these shows an object of its own.

    Args:
      rings: closeness, any shape.
      axis: that of the bins.
    """
    size = jnp.maximum(rings, 1e-6)
    by_ahead = jnp.clip(jnp.roll(rings, -1, axis=axis) / size, 0.0, 1.0)
    by_behind = jnp.clip(1.0 - jnp.roll(rings, 1, axis=axis) / size, 0.0, 1.0)
    return by_ahead, by_behind


def shown_share(beyond: Array) -> jax.Array:
    """The share of an object's closeness that a bin shows, any shape.

    Args:
      beyond: of a bin's width by which the object is beyond the bin's beginning; in [0, 1] if it
        is in the bin.
    """
    return jnp.clip(jnp.minimum(1.0 + beyond, 2.0 - beyond), 0.0, 1.0)


def show_objects(closeness: Array, fraction: Array, reach: int, axis: int) -> jax.Array:
    """What rings show of objects, at most one for each bin, in the shape of `closeness`.

    Args:
      closeness: of each bin's object, 0 for none.
      fraction: of a bin's width by which the object is beyond the bin's beginning; in [0, 1] if it
        is still in the bin.
      reach: bins on either side in which an object may show.
      axis: that of the bins.
    """
    at = jnp.stack(jnp.broadcast_arrays(closeness, fraction))
    closeness, fraction = _of_bins_around(jnp.moveaxis(at, axis, -1), reach)
    share = shown_share(fraction - jnp.arange(-reach, reach + 1)[:, None])
    # One after the other: the gradient of `jnp.max` is not a number where a compiler computes the
    # compared numbers twice and rounds differently.
    shown = functools.reduce(jnp.maximum, jnp.unstack(closeness * share, axis=-2), 0.0)
    return jnp.moveaxis(shown, -1, axis)


def _of_bins_around(x: Array, reach: int) -> jax.Array:
    """For each bin the numbers `[..., n]` of the bins around it, `[..., 2 reach + 1, n]`.

    In row k, bin i has the number of bin i - (k - reach). A product with zeros and ones gives it
    exactly. With `jnp.roll` the compiled program on a CPU computes all that leads to x anew for
    each row, and predicting a step took half as long again.
    """
    bins = x.shape[-1]
    rolled = np.stack([np.roll(np.eye(bins), k, axis=1) for k in range(-reach, reach + 1)], axis=1)
    return jnp.einsum("...b,bkn->...kn", x, rolled.astype(x.dtype), precision="highest")
