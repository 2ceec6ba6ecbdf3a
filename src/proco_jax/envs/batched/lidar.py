"""The official pseudo-lidar of many objects in many worlds at once."""

import numpy as np

BINS = 16
_BIN = 2 * np.pi / BINS


def lidar(
    positions: np.ndarray,
    ring_of: np.ndarray,
    rings: int,
    agent: np.ndarray,
    frame: np.ndarray,
    reach: float,
) -> np.ndarray:
    """Closeness by direction: the nearest object's in its bin, a share in the two beside it.

    An object in bin b, at the fraction `alias` of the way through it, shows
    fully in b, by `alias` in b + 1 and by `1 - alias` in b - 1.

    Args:
      positions: `[N, K, 2]` world x and y of objects, in meters.
      ring_of: `[K]` the ring in which each object shows.
      rings: R, how many rings there are.
      agent: `[N, 3]` position of the agent.
      frame: `[N, 9]` rotation matrix of the agent, row by row.
      reach: meters from which an object reads 0.

    Returns:
      `[N, R * 16]`, the rings one after the other.
    """
    worlds = len(positions)
    x = positions[:, :, 0] - agent[:, :1]
    y = positions[:, :, 1] - agent[:, 1:2]
    z = -agent[:, 2:]
    ego_x = x * frame[:, 0:1] + y * frame[:, 3:4] + z * frame[:, 6:7]
    ego_y = x * frame[:, 1:2] + y * frame[:, 4:5] + z * frame[:, 7:8]
    closeness = np.maximum(0, reach - np.hypot(ego_x, ego_y)) / reach
    angle = np.arctan2(ego_y, ego_x) % (2 * np.pi)
    bins = (angle / _BIN).astype(np.intp)
    alias = (angle - _BIN * bins) / _BIN
    start = (np.arange(worlds)[:, None] * rings + ring_of) * BINS
    out = np.zeros(worlds * rings * BINS)
    np.maximum.at(out, (start + bins % BINS).ravel(), closeness.ravel())
    np.maximum.at(out, (start + (bins + 1) % BINS).ravel(), (alias * closeness).ravel())
    np.maximum.at(out, (start + (bins - 1) % BINS).ravel(), ((1 - alias) * closeness).ravel())
    return out.reshape(worlds, rings * BINS)


def rotation_matrices(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices `[N, 9]`, row by row, of `[N, 4]` quaternions w, x, y, z."""
    w, x, y, z = quaternions.T
    ww, xx, yy, zz = w * w, x * x, y * y, z * z
    return np.stack(
        [
            ww + xx - yy - zz,
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            ww - xx + yy - zz,
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            ww - xx - yy + zz,
        ],
        axis=1,
    )
