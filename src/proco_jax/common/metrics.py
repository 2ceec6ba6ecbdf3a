"""`metrics.jsonl`: training metrics, one flat JSON object per line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from proco_jax.common import checksums
from proco_jax.common.files import disk_full_explained, write_text

FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends metrics to a file, and on request to TensorBoard.

    An incomplete last line, left by a killed process, is removed on opening.

    Args:
      workdir: folder of the run, which holds `metrics.jsonl`.
      tensorboard: also write event files to `tensorboard/<stage>`; TensorBoard then
        shows stages with the same metrics in one plot.

    Raises:
      ImportError: if `tensorboard` is set and tensorboardX is not installed.
    """

    def __init__(self, workdir: Path, *, tensorboard: bool = False) -> None:
        self.path = Path(workdir) / FILE
        self._summary_writer = _import_tensorboard() if tensorboard else None
        self._boards: dict[str, Any] = {}
        if self.path.exists():
            lines = load_metrics(self.path)
            if not self.path.read_bytes().endswith(b"\n"):
                write_text(self.path, _text(lines))
        elif checksums.forget(self.path):
            logging.warning("%s is not there any more; training curves begin anew", self.path)

    def resume(self, stage: str, step: int) -> None:
        """Removes the lines of a stage after the step from which it resumes."""
        if self.path.exists():
            lines = load_metrics(self.path)
            kept = [line for line in lines if line["stage"] != stage or line["step"] <= step]
            if len(kept) < len(lines):
                checksums.write_recorded(self.path, _text(kept))
        if self._summary_writer is not None:
            self._close_board(stage)
            self._boards[stage] = self._new_board(stage, purge_step=step + 1)

    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one line.

        Args:
          stage: e.g. `dynamics` or `train/bc-proco`.
          step: of that stage.
          metrics: names to numbers, or to arrays `[S]` with one number per seed.
            The mean is written, or `null` if it is not finite.

        Raises:
          ValueError: if a metric is named `stage` or `step`.
        """
        if clash := {"stage", "step"} & set(metrics):
            raise ValueError(f"metrics named {sorted(clash)}: these names are reserved")
        means = {name: float(np.mean(np.asarray(value))) for name, value in metrics.items()}
        line = {"stage": stage, "step": int(step)} | {
            name: value if math.isfinite(value) else None for name, value in means.items()
        }
        with disk_full_explained(self.path), self.path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._summary_writer is not None:
            if stage not in self._boards:
                self._boards[stage] = self._new_board(stage)
            for name, value in means.items():
                self._boards[stage].add_scalar(name, value, int(step))

    def seal(self) -> None:
        """Records the checksum of the lines so far; later ones may follow."""
        if self.path.exists():
            checksums.record(self.path)

    def close(self) -> None:
        """Closes the TensorBoard event files."""
        for stage in list(self._boards):
            self._close_board(stage)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new_board(self, stage: str, purge_step: int | None = None) -> Any:
        assert self._summary_writer is not None
        folder = self.path.parent / "tensorboard" / stage.replace("/", "-")
        return self._summary_writer(str(folder), purge_step=purge_step, flush_secs=10)

    def _close_board(self, stage: str) -> None:
        if (board := self._boards.pop(stage, None)) is not None:
            board.close()


def load_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, in order, without an incomplete last line.

    Raises:
      ValueError: if another line is not a JSON object with a stage and a step, or lines that were
        sealed have changed.
    """
    remedy = "remove it; training curves are then missing in the report, and nothing else"
    texts = checksums.read_recorded(path, remedy, grows=True).split("\n")
    # Only a line that was cut off by a kill lacks its line break.
    whole = texts[:-1]
    lines = []
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text)
            lines.append({"stage": line["stage"], "step": line["step"], **line})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a JSON object with stage and step; "
                "remove the line, or the file: training curves are then missing in the report"
            ) from error
    return lines


def _text(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _import_tensorboard() -> Any:
    try:
        import tensorboardX
    except ModuleNotFoundError as error:
        raise ImportError(
            "TensorBoard output needs tensorboardX, which is not installed: run "
            "`uv sync --extra tensorboard`, or go without --tensorboard (metrics.jsonl is "
            "always written)"
        ) from error
    return tensorboardX.SummaryWriter
