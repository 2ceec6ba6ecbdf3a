"""Atomic checkpoints of pytrees of arrays, with Orbax."""

import json
import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import SingleDeviceSharding

from proco_jax.common.files import digests, disk_full_explained, write_text

_DIGESTS = "sha256-"


class CheckpointError(ValueError):
    """A checkpoint is damaged."""


class Checkpoints:
    """The checkpoints of one part of a run; the newest are kept.

    A save is written to a temporary folder and renamed, so a kill leaves the last checkpoint. The
    SHA-256 of its files are saved beside it, and compared when it is restored.

    Args:
      folder: of the checkpoints; it is made if needed.
      keep: how many of the newest are kept. With 2, a damaged one loses the work since the other.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )
        self._folder = folder.absolute()
        try:
            with disk_full_explained(folder):
                self._manager = ocp.CheckpointManager(self._folder, options=options)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(_damaged(folder, _first_line(error))) from error

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Saves a state of arrays and typed keys under a step.

        Raises:
          OSError: if the disk is full; the last checkpoint stays.
        """
        if self.latest == step:
            return
        with disk_full_explained(self._folder / str(step)):
            self._manager.save(step, args=ocp.args.StandardSave(state))  # pyright: ignore
            found = digests(self._folder / str(step))
            write_text(self._digests(step), json.dumps(found, indent=1) + "\n")
        kept = {self._digests(other).name for other in self._manager.all_steps()}
        for path in self._folder.glob(f"{_DIGESTS}*.json"):
            if path.name not in kept:
                path.unlink()

    def restore(self, like: Any, verified: bool = False) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read, on this process's first device.

        Args:
          like: a state of the same structure and shapes, whose values are ignored.
          verified: the caller has compared the files with their digests.

        Returns:
          Its step and state; None if there is no checkpoint.

        Raises:
          CheckpointError: if there are checkpoints, but none can be read.
        """
        here = SingleDeviceSharding(jax.local_devices()[0])

        def placed(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

        steps = sorted(self._manager.all_steps(), reverse=True)
        damage: Exception | None = None
        for step in steps:
            args = ocp.args.StandardRestore(jax.tree.map(placed, like))  # pyright: ignore
            try:
                if not verified:
                    self._check(step)
                state = self._manager.restore(step, args=args)
            # Orbax and TensorStore raise many kinds of errors for damaged files.
            except Exception as error:
                damage = error
                logging.warning(
                    "checkpoint %s/%d cannot be read and is left out (%s)",
                    self._folder,
                    step,
                    _first_line(error),
                )
                continue
            # Damaged newer ones must not stand in the way of saving these steps again.
            for newer in steps[: steps.index(step)]:
                self._manager.delete(newer)
            return step, state
        if damage is None:
            return None
        raise CheckpointError(_damaged(self._folder, _first_line(damage))) from damage

    def _digests(self, step: int) -> Path:
        return self._folder / f"{_DIGESTS}{step}.json"

    def _check(self, step: int) -> None:
        """Compares a checkpoint with its digests, which earlier versions did not save."""
        path = self._digests(step)
        if path.exists() and json.loads(path.read_text()) != digests(self._folder / str(step)):
            raise CheckpointError("a file differs from what was saved")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()


def save_arrays(folder: Path, tree: Any) -> None:
    """Saves a pytree of arrays as the only checkpoint of a folder, replacing what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    with Checkpoints(folder, keep=1) as saved:
        saved.save(0, tree)


def load_arrays(folder: Path, like: Any, verified: bool = False) -> Any:
    """The newest checkpoint of a folder, of the structure and shapes of `like`.

    Args:
      folder: of the checkpoints.
      like: arrays or their shapes.
      verified: the caller has compared the files with their digests.

    Raises:
      CheckpointError: if there is none, it cannot be read, or it holds numbers that are not finite.
    """
    advice = f"remove {folder.parent}, then the same command makes it anew"
    if not folder.is_dir():
        raise CheckpointError(f"{folder} holds no checkpoint that can be read; {advice}")
    with Checkpoints(folder) as saved:
        newest = saved.latest
        found = saved.restore(like, verified)
    if found is None or found[0] != newest:
        raise CheckpointError(f"{folder} holds no checkpoint that can be read; {advice}")
    bad = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(found[1])
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all()
    ]
    if bad:
        raise CheckpointError(
            f"{folder}: {len(bad)} arrays, first {bad[0]}, hold numbers that are not finite; "
            f"{advice}"
        )
    return found[1]


def _damaged(folder: Path, reason: str) -> str:
    return (
        f"no checkpoint in {folder} can be read ({reason}); remove that folder, then the same "
        "command makes it anew"
    )


def _first_line(error: Exception) -> str:
    # Reports of TensorStore hold the source positions of every level.
    text = re.sub(r"\[.*", "", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:200].rstrip()
