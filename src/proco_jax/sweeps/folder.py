"""The folder of a sweep: what is to be done, what is done, and where everything lies.

ROOT/sweep.json            units and runs, written by every process that knows the description
ROOT/store/                artifacts that all runs share
ROOT/units/<unit>/         lock, training checkpoints, seconds, failure of a unit
ROOT/runs/<run>/           the workdir of a run, as `proco_jax.main` makes it
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from proco_jax.common.files import write_text
from proco_jax.common.object_store import is_address
from proco_jax.pipeline.workdir import DONE, STORE
from proco_jax.sweeps.description import SweepRun, Unit

PLAN, RUNS, UNITS = "sweep.json", "runs", "units"
TRAINED, FAILURE, SECONDS = "trained.json", "failure.json", "seconds.json"
_VERSION = 1


class PlannedRun(NamedTuple):
    """A run as `sweep.json` lists it.

    Attributes:
      name: of its folder.
      unit: name of its unit.
      task: e.g. `SafetyPointGoal1`.
      source: of its logs.
      regime: of its logs.
      cost_limit: of an episode.
      algorithm: as in its config.
      augmentations: as in its config.
      shields: as in its config.
      settings: the values of the sweep's hyperparameters.
      seeds: the seeds of its policies.
    """

    name: str
    unit: str
    task: str
    source: str
    regime: str
    cost_limit: float
    algorithm: str
    augmentations: list[str]
    shields: list[str]
    settings: dict[str, Any]
    seeds: list[int]


class Root(NamedTuple):
    """The folder of a sweep."""

    path: Path

    @property
    def store(self) -> Path:
        """The shared artifacts."""
        return self.path / STORE

    def run(self, name: str) -> Path:
        """The workdir of a run."""
        return self.path / RUNS / name

    def unit(self, name: str) -> Path:
        """The folder of a unit."""
        return self.path / UNITS / name

    def run_finished(self, name: str) -> bool:
        """Whether a run has all its results."""
        return (self.run(name) / DONE).exists()

    def unit_finished(self, unit: Unit) -> bool:
        """Whether all runs of a unit have all their results."""
        return all(self.run_finished(run.name) for run in unit.runs)

    def unit_trained(self, unit: Unit) -> bool:
        """Whether the policies of all runs of a unit are saved."""
        return (self.unit(unit.name) / TRAINED).exists()


def check_root(path: str) -> Root:
    """The root of a path on a file system.

    Raises:
      ValueError: if it is the address of an object store.
    """
    if is_address(path):
        raise ValueError(f"found {path!r} among several folders; give the address of a sweep alone")
    return Root(Path(path).absolute())


def write_plan(root: Root, units: Sequence[Unit]) -> tuple[int, int]:
    """Writes `sweep.json`, unless it says the same already.

    Returns:
      How many runs are new, and how many of an earlier description do not occur any more.
    """
    runs = [_entry(unit, run) for unit in units for run in unit.runs]
    text = json.dumps({"version": _VERSION, "runs": runs}, indent=1) + "\n"
    path = root.path / PLAN
    earlier: set[str] = set()
    if path.exists():
        if path.read_text() == text:
            return 0, 0
        earlier = {run.name for run in read_plan(root)}
    write_text(path, text)
    now = {run["name"] for run in runs}
    return len(now - earlier), len(earlier - now)


def read_plan(root: Root) -> list[PlannedRun]:
    """The runs of a sweep, in the order of its axes.

    Raises:
      FileNotFoundError: if the folder holds no sweep.
      ValueError: if `sweep.json` is damaged or of another version.
    """
    path = root.path / PLAN
    if not path.exists():
        raise FileNotFoundError(
            f"no {path}: expected the --workdir of python -m proco_jax.sweep --sweep=..."
        )
    try:
        content = json.loads(path.read_text())
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}, expected {_VERSION}")
        return [PlannedRun(**run) for run in content["runs"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it, then python -m proco_jax.sweep with the same "
            "description writes it anew"
        ) from error


def add_seconds(root: Root, unit: Unit, seconds: float) -> None:
    """Adds to the seconds that a unit took in all; nothing but estimates depends on them."""
    path = root.unit(unit.name) / SECONDS
    write_text(path, json.dumps(round(unit_seconds(root, unit.name) + seconds, 1)) + "\n")


def unit_seconds(root: Root, unit: str) -> float:
    """The seconds that a unit took so far, without those of killed processes."""
    try:
        return float(json.loads((root.unit(unit) / SECONDS).read_text()))
    except (OSError, ValueError, TypeError):
        return 0.0


def _entry(unit: Unit, run: SweepRun) -> dict[str, Any]:
    config = run.config
    planned = PlannedRun(
        run.name,
        unit.name,
        config.task,
        config.data.source,
        config.data.regime,
        config.cost_limit,
        config.algorithms[0],
        list(config.augmentations),
        list(config.shields),
        dict(run.settings),
        list(range(config.seed, config.seed + config.seeds)),
    )
    return planned._asdict()
