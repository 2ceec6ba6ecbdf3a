"""Bringing observations to the scale that networks expect, without breaking their geometry."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from proco_jax.observation import ObservationSpec
from proco_jax.types import Array

CONSTANT_BELOW = 1e-5
# Sensors spike on impact, and an imagined sensor may run away; beyond so many
# standard deviations a network is told no more than "very much".
CLIP = 8.0


@struct.dataclass
class Scale:
    """`(obs - shift) * factor`, clipped to +-CLIP, with factor 0 for dimensions that never change.

    Rings stay closeness in [0, 1], and a planar vector is scaled as one and
    not shifted, so that turning it commutes with scaling it.

    Attributes:
      shift: `[O]`.
      factor: `[O]`, 0 where the logs are constant.
    """

    shift: Array
    factor: Array

    def __call__(self, obs: Array) -> jax.Array:
        """Scales `[..., O]` raw observations."""
        return jnp.clip((jnp.asarray(obs) - self.shift) * self.factor, -CLIP, CLIP)

    @property
    def varies(self) -> Array:
        """`[O]`, whether a dimension ever changes in the logs."""
        return self.factor > 0


def fit_scale(spec: ObservationSpec, obs: np.ndarray) -> Scale:
    """The scale of logged observations.

    Args:
      spec: the description of the observation, of size O.
      obs: `[M, O]` raw observations.

    Raises:
      ValueError: if the observations do not fit the description.
    """
    if obs.ndim != 2 or obs.shape[1] != spec.size:
        raise ValueError(
            f"observations of shape {obs.shape} do not fit a description of size {spec.size}"
        )
    mean, std = obs.mean(0, dtype=np.float64), obs.std(0, dtype=np.float64)
    rms = np.sqrt(mean**2 + std**2)
    shift, size = mean.copy(), std.copy()
    for f in spec.fields:
        where = spec.slices[f.name]
        if f.kind == "ring":
            shift[where], size[where] = 0.0, 1.0
        elif f.kind == "vector":
            planar = slice(where.start, where.start + 2)
            shift[planar], size[planar] = 0.0, np.sqrt(np.mean(rms[planar] ** 2))
    varies = std > CONSTANT_BELOW
    factor = np.where(varies, 1.0 / np.where(varies, size, 1.0), 0.0)
    return Scale(shift.astype(np.float32), factor.astype(np.float32))
