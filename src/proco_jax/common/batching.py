"""Batched functions on more rows than memory holds at once, and rows spread over many."""

from collections.abc import Callable
from typing import Any

import numpy as np


def in_blocks(function: Callable, *arrays: np.ndarray, size: int = 4096) -> Any:
    """Applies a batched function to blocks of one size, so that memory stays bounded.

    The function's outputs have the batch as first axis, or as second where a
    tuple comes back.
    """
    count = len(arrays[0])
    size = min(size, count)
    outputs = []
    for start in range(0, count, size):
        block = [np.take(x, range(start, start + size), axis=0, mode="clip") for x in arrays]
        outputs.append(function(*block))
    if isinstance(outputs[0], tuple):
        return tuple(np.concatenate(x, axis=1)[:, :count] for x in zip(*outputs, strict=True))
    return np.concatenate([np.asarray(x) for x in outputs])[:count]


def spread(count: int, most: int) -> np.ndarray:
    """At most so many indices below count, evenly spread."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64))
