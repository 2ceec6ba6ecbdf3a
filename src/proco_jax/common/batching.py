"""Evaluation of batched functions in blocks, and evenly spaced subsets of rows."""

from collections.abc import Callable
from typing import Any

import numpy as np

SMALLEST_BLOCK = 256


def in_blocks(function: Callable, *arrays: np.ndarray, size: int = 4096) -> Any:
    """Applies a batched function block by block, which bounds its memory.

    Args:
      function: takes arrays with a leading batch axis. It returns one array whose
        first axis is the batch, or a tuple of arrays whose second axis is.
      arrays: with the same leading axis, of at least one row.
      size: rows in a block; for shorter arrays the next power of two from 256 on. So blocks are of
        few sizes, and a compiled function is seldom traced anew. The last block is filled up with
        the last row.

    Returns:
      What the function returns for all rows at once.
    """
    count = len(arrays[0])
    size = min(size, max(SMALLEST_BLOCK, 1 << (count - 1).bit_length()))
    outputs = []
    for start in range(0, count, size):
        block = [np.take(x, range(start, start + size), axis=0, mode="clip") for x in arrays]
        outputs.append(function(*block))
    if isinstance(outputs[0], tuple):
        return tuple(np.concatenate(x, axis=1)[:, :count] for x in zip(*outputs, strict=True))
    return np.concatenate([np.asarray(x) for x in outputs])[:count]


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` evenly spaced indices below `count`, sorted."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64))
