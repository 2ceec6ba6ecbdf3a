"""Normalization of observations that preserves the geometry of rings and planar vectors."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from proco_jax.observation import ObservationSpec
from proco_jax.types import Array

CONSTANT_BELOW = 1e-5
# In standard deviations. Sensors spike on impact, and imagined sensors may diverge.
CLIP = 8.0


@struct.dataclass
class Normalizer:
    """`(obs - shift) * factor`, clipped to +-CLIP, with factor 0 for dimensions that never change.

    Rings keep their closeness in [0, 1]. A planar vector is scaled by one factor and not shifted,
    so that rotation and normalization commute.

    Attributes:
      shift: `[O]`.
      factor: `[O]`, 0 where the logs are constant.
    """

    shift: Array
    factor: Array

    def __call__(self, obs: Array) -> jax.Array:
        """Normalizes raw observations `[..., O]`."""
        return jnp.clip((jnp.asarray(obs) - self.shift) * self.factor, -CLIP, CLIP)

    @property
    def size(self) -> jax.Array:
        """`[O]`, the standard deviation that is normalized to 1; 1 where the logs are constant."""
        return jnp.where(self.varies, 1.0 / jnp.where(self.varies, self.factor, 1.0), 1.0)

    @property
    def varies(self) -> Array:
        """`[O]`, whether a dimension ever changes in the logs."""
        return self.factor > 0


def fit_normalizer(spec: ObservationSpec, obs: np.ndarray) -> Normalizer:
    """Fits the normalizer of logged observations.

    Args:
      spec: the description of the observation, of size O.
      obs: `[M, O]` raw observations.

    Raises:
      ValueError: if the observations do not fit the description.
    """
    if obs.ndim != 2 or obs.shape[1] != spec.size:
        raise ValueError(
            f"observations: found shape {obs.shape}, expected [M, {spec.size}] by the description"
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
    return Normalizer(shift.astype(np.float32), factor.astype(np.float32))
