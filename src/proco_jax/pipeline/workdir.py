"""The folder of a run: its config, lock, metrics and times."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from proco_jax.common import checksums
from proco_jax.common.files import locked, write_text
from proco_jax.common.metrics import MetricsWriter
from proco_jax.config import schema
from proco_jax.config.schema import Config
from proco_jax.config.validation import validate

CONFIG = "config.json"
TIMING = "timing.json"
DONE = "done.json"
STORE = "store"
# A copy of the description of a system of the user's own.
DESCRIPTION = "system.md"
# Files of a run that has not made anything yet.
UNIMPORTANT = {CONFIG, TIMING, checksums.NAME, ".lock", DESCRIPTION}


class ConfigMismatchError(ValueError):
    """The workdir belongs to a run with another config."""


@dataclasses.dataclass
class Run:
    """What every stage needs.

    Attributes:
      config: validated.
      workdir: the folder that the run writes its results to.
      store: root of the shared artifacts, see `store.py`.
      metrics: writer of `metrics.jsonl`.
      log: takes lines for the user.
      timed: whether stages add their seconds to `timing.json`.
      compiled: programs that several evaluations share, by the name of what they do.
    """

    config: Config
    workdir: Path
    store: Path
    metrics: MetricsWriter
    log: Callable[[str], None] = print
    timed: bool = True
    compiled: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a file of the workdir atomically, and its checksum."""
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        checksums.write_recorded(self.workdir / name, text)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in a file of the workdir; None if there is no such file.

        Raises:
          ValueError: if the file is damaged.
        """
        return checksums.read_json(self.workdir / name)

    @contextlib.contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Logs a heading, and adds the stage's seconds to `timing.json`, also over resumptions."""
        self.log(f"\n== {title}")
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            if self.timed:
                self._add_seconds(name, seconds)
            self.log(f"   {title.lower()}: {seconds:.0f} s")

    def _add_seconds(self, name: str, seconds: float) -> None:
        try:
            timing = self.read_json(TIMING) or {}
            total = round(timing.get(name, 0.0) + seconds, 1)
        except (ValueError, TypeError) as error:
            # Nothing depends on the seconds.
            self.log(f"   {TIMING} is begun anew: {error}")
            timing, total = {}, round(seconds, 1)
        self.write_json(TIMING, timing | {name: total})


def check_finished(workdir: Path) -> None:
    """Checks that a folder holds a finished run.

    Raises:
      ValueError: if it does not.
    """
    if not (workdir / DONE).exists():
        raise ValueError(
            f"{workdir} holds no finished run; run python -m proco_jax.main --config=... first"
        )


@contextlib.contextmanager
def open_run(
    config: Config,
    workdir: Path,
    store: Path | None = None,
    tensorboard: bool = False,
    log: Callable[[str], None] = print,
) -> Iterator[Run]:
    """Opens the folder of a run, a new one or one to resume.

    Args:
      store: root of the shared artifacts; None for the folder `store` beside the workdir, which
        runs in the same parent folder share.

    Raises:
      ValueError: if the config cannot be run, or the folder's own is damaged.
      ConfigMismatchError: if the folder holds a run with another config, with the differences.
    """
    validate(config)
    check_same(config, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir / ".lock", log, "run"):
        # Another process may have begun here while this one waited.
        check_same(config, workdir)
        if not (workdir / CONFIG).exists():
            write_text(workdir / CONFIG, schema.to_json(config))
        try:
            with MetricsWriter(workdir, tensorboard=tensorboard) as metrics:
                yield Run(config, workdir, store or workdir.absolute().parent / STORE, metrics, log)
        except Exception:
            # A run that failed before it made anything fixes neither config nor description.
            if {path.name for path in workdir.iterdir()} <= UNIMPORTANT:
                (workdir / CONFIG).unlink()
                (workdir / DESCRIPTION).unlink(missing_ok=True)
            raise


def check_same(config: Config, workdir: Path) -> None:
    """Checks that a folder holds no run with another config.

    Raises:
      ValueError: if the folder's own config is damaged.
      ConfigMismatchError: with the differences.
    """
    path = workdir / CONFIG
    if not path.exists():
        return
    try:
        lines = schema.differences(config, path.read_text())
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); if the folder belongs to this config, remove that file, "
            "then the same command writes it anew; otherwise give another --workdir"
        ) from error
    if lines:
        raise ConfigMismatchError(
            f"{workdir} holds a run with another config (there -> now):\n  "
            + "\n  ".join(lines)
            + "\ngive another --workdir, or remove that folder to start anew"
        )
