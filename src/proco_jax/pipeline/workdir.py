"""One run's folder: its config, clock, metrics and lock."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from proco_jax.common.files import locked, write_text
from proco_jax.common.metrics import MetricsWriter
from proco_jax.config import schema as configs
from proco_jax.config.schema import Config

CONFIG = "config.json"
TIMING = "timing.json"
DONE = "done.json"


class ConfigMismatchError(ValueError):
    """The workdir belongs to a run with another config."""


@dataclasses.dataclass
class Run:
    """What every stage needs.

    Attributes:
      config: validated.
      workdir: the only folder that the run writes to, the dataset store apart.
      metrics: writer of `metrics.jsonl`.
      log: takes lines for the user.
      timed: whether stages add their seconds to `timing.json`.
    """

    config: Config
    workdir: Path
    metrics: MetricsWriter
    log: Callable[[str], None] = print
    timed: bool = True

    def checkpoints(self, part: str) -> Path:
        """Folder of a part's checkpoints."""
        return self.workdir / "checkpoints" / part

    def write_json(self, name: str, content: Any) -> None:
        """Writes an artefact, whole or not at all."""
        write_text(self.workdir / name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any | None:
        """An artefact, None if it is not there."""
        path = self.workdir / name
        return json.loads(path.read_text()) if path.exists() else None

    @contextlib.contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """A heading, and the stage's seconds in `timing.json`, summed over resumes."""
        self.log(f"\n== {title}")
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            if self.timed:
                timing = self.read_json(TIMING) or {}
                timing[name] = round(timing.get(name, 0.0) + seconds, 1)
                self.write_json(TIMING, timing)
            self.log(f"   {title.lower()}: {seconds:.0f} s")


def check_finished(workdir: Path) -> None:
    """Raises ValueError unless the folder holds a finished run."""
    if not (workdir / DONE).exists():
        raise ValueError(
            f"{workdir} holds no finished run; first: python -m proco_jax.main --config=..."
        )


@contextlib.contextmanager
def open_run(
    config: Config, workdir: Path, tensorboard: bool = False, log: Callable[[str], None] = print
) -> Iterator[Run]:
    """Opens a run's folder, new or to go on.

    Raises:
      ValueError: if the config cannot be run.
      ConfigMismatchError: if the folder holds a run with another config, with
        the differences.
    """
    configs.validate(config)
    _check_same(config, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir / ".lock", log, "run"):
        # Another process may have begun here while this one waited.
        _check_same(config, workdir)
        if not (workdir / CONFIG).exists():
            write_text(workdir / CONFIG, configs.to_json(config))
        try:
            with MetricsWriter(workdir, tensorboard=tensorboard) as metrics:
                yield Run(config, workdir, metrics, log)
        except Exception:
            # What failed before it made anything binds nobody to its config.
            if {path.name for path in workdir.iterdir()} <= {CONFIG, TIMING, ".lock"}:
                (workdir / CONFIG).unlink()
            raise


def _check_same(config: Config, workdir: Path) -> None:
    path = workdir / CONFIG
    if path.exists() and (lines := configs.differences(config, path.read_text())):
        raise ConfigMismatchError(
            f"{workdir} holds a run with another config (there -> now):\n  "
            + "\n  ".join(lines)
            + "\ngive another --workdir, or remove that folder to start anew"
        )
