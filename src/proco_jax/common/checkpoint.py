"""Saving and restoring states with Orbax: whole or not at all."""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding


class Checkpoints:
    """The checkpoints of one part of a run, newest kept.

    A save is written beside and renamed, so a kill leaves the checkpoint before.

    Args:
      folder: where they lie, made if need be.
      keep: how many of the newest are kept.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Saves a state of arrays and typed keys under a step."""
        if self.latest != step:
            self._manager.save(step, args=ocp.args.StandardSave(state))  # pyright: ignore

    def restore(self, like: Any) -> Any:
        """The newest state, on this process's first device wherever it was saved.

        Args:
          like: a state of the same structure and shapes, whose values are ignored.

        Raises:
          FileNotFoundError: if there is none.
        """
        if self.latest is None:
            raise FileNotFoundError(f"no checkpoint in {self._manager.directory}")
        here = SingleDeviceSharding(jax.local_devices()[0])

        def placed(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

        abstract = jax.tree.map(placed, like)
        args = ocp.args.StandardRestore(abstract)  # pyright: ignore
        return self._manager.restore(self.latest, args=args)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()
