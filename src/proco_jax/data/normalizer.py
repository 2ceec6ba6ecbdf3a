"""Scaling observations to mean 0 and deviation 1, without hurting what has a structure."""

import numpy as np
from flax import struct

from proco_jax.observation import ObservationSpec
from proco_jax.types import Array, Dataset

# A dimension that deviates less than this, in its own unit, is a constant with noise.
CONSTANT = 1e-6
ROWS = 65536


@struct.dataclass
class Normalizer:
    """Mean and deviation of raw observations.

    Attributes:
      mean: `[O]` float32.
      std: `[O]` float32, 1 where a dimension never changes.
      mask: `[O]` float32, 0 where a dimension never changes, else 1.
    """

    mean: Array
    std: Array
    mask: Array

    @staticmethod
    def fit(dataset: Dataset, spec: ObservationSpec | None = None) -> "Normalizer":
        """Fits the scale of every dimension.

        With a description, the bins of a ring share one mean and deviation,
        and x and y of a vector one deviation about 0, so that scaling doesn't
        disturb what turns with the agent.

        Args:
          dataset: raw observations `[rows, O]` in `dataset.obs`.
          spec: the fields of the observation, if they are to share.
        """
        obs = np.asarray(dataset.obs)
        mean, variance = _moments(obs)
        mask = np.sqrt(variance) > CONSTANT * np.maximum(1.0, np.abs(mean))
        if spec is not None:
            mean, variance = _shared(mean, variance, spec)
        std = np.where(mask, np.sqrt(variance), 1.0)
        return Normalizer(*(x.astype(np.float32) for x in (mean, std, mask)))

    def normalize(self, obs: Array) -> Array:
        """`[..., O]` raw to scaled; 0 in dimensions that never change."""
        lead = (None,) * (obs.ndim - 1)
        return (obs - self.mean[lead]) / self.std[lead] * self.mask[lead]

    def denormalize(self, obs: Array) -> Array:
        """`[..., O]` scaled to raw; the mean in dimensions that never change."""
        lead = (None,) * (obs.ndim - 1)
        return obs * self.mask[lead] * self.std[lead] + self.mean[lead]


def _moments(obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance in float64, block by block to keep memory small."""
    blocks = [obs[i : i + ROWS] for i in range(0, len(obs), ROWS)]
    mean = np.sum([b.sum(axis=0, dtype=np.float64) for b in blocks], axis=0) / len(obs)
    squares = np.sum([((b - mean) ** 2).sum(axis=0) for b in blocks], axis=0)
    return mean, squares / len(obs)


def _shared(
    mean: np.ndarray, variance: np.ndarray, spec: ObservationSpec
) -> tuple[np.ndarray, np.ndarray]:
    """The moments pooled over the bins of each ring, and over x and y of each vector."""
    mean, variance = mean.copy(), variance.copy()
    squares = variance + mean**2
    for field in spec.fields:
        part = spec.slices[field.name]
        if field.kind == "ring":
            mean[part] = mean[part].mean()
            variance[part] = squares[part].mean() - mean[part] ** 2
        elif field.kind == "vector":
            plane = slice(part.start, part.start + 2)
            mean[plane] = 0.0
            variance[plane] = squares[plane].mean()
    return mean, variance
