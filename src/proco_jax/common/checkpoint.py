"""Atomic checkpoints of pytrees of arrays, with Orbax."""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import SingleDeviceSharding


class CheckpointError(ValueError):
    """A checkpoint is damaged."""


class Checkpoints:
    """The checkpoints of one part of a run; the newest are kept.

    A save is written to a temporary folder and renamed, so a kill leaves the last checkpoint.

    Args:
      folder: of the checkpoints; it is made if needed.
      keep: how many of the newest are kept. With 2, a damaged one loses the work since the other.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Saves a state of arrays and typed keys under a step."""
        if self.latest != step:
            self._manager.save(step, args=ocp.args.StandardSave(state))  # pyright: ignore

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read, on this process's first device.

        Args:
          like: a state of the same structure and shapes, whose values are ignored.

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
                state = self._manager.restore(step, args=args)
            # Orbax and TensorStore raise many kinds of errors for damaged files.
            except Exception as error:
                damage = error
                logging.warning("checkpoint %s/%d cannot be read", self._manager.directory, step)
                continue
            # Damaged newer ones must not stand in the way of saving these steps again.
            for newer in steps[: steps.index(step)]:
                self._manager.delete(newer)
            return step, state
        if damage is None:
            return None
        raise CheckpointError(
            f"no checkpoint in {self._manager.directory} can be read ({_first_line(damage)}); "
            "remove that folder, then the same command makes it anew"
        ) from damage

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


def load_arrays(folder: Path, like: Any) -> Any:
    """The newest checkpoint of a folder, of the structure and shapes of `like`.

    Raises:
      CheckpointError: if there is none, or it cannot be read.
    """
    with Checkpoints(folder) as saved:
        newest = saved.latest
        found = saved.restore(like)
    if found is None or found[0] != newest:
        raise CheckpointError(
            f"{folder} holds no checkpoint that can be read; remove {folder.parent} and run again"
        )
    return found[1]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
