"""Reads all arrays that a run saved, without the code under test."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp


def arrays_below(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of every folder of checkpoints, and every NPZ file, by its path."""
    found: dict[str, Any] = {}
    for path in folder.rglob("default"):
        parent = path.parent.parent
        newest = max(int(p.name) for p in parent.iterdir() if p.name.isdigit())
        if path.parent.name == str(newest):
            name = parent.relative_to(folder).as_posix()
            found[name] = ocp.StandardCheckpointer().restore(path.absolute())
    for path in folder.rglob("*.npz"):
        with np.load(path) as arrays:
            found[path.relative_to(folder).as_posix()] = dict(arrays)
    return found


def same_arrays(left: Any, right: Any) -> bool:
    """Whether two trees have the same structure and bits."""
    a, b = jax.tree.flatten(left), jax.tree.flatten(right)
    return a[1] == b[1] and all(map(same_bits, a[0], b[0]))


def same_bits(left: Any, right: Any) -> bool:
    """Whether two arrays, typed keys among them, have the same type, shape and bits."""
    left, right = _plain(left), _plain(right)
    return (
        left.shape == right.shape
        and left.dtype == right.dtype
        and left.tobytes() == right.tobytes()
    )


def _plain(x: Any) -> np.ndarray:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)
