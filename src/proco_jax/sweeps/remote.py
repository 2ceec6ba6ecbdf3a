"""A sweep whose folder is in an object store (`s3://`, `gs://`, ...), worked on in a local folder.

ADDRESS/sweep.json               units and runs
ADDRESS/store/<kind>/<hash>.tar  artifacts, see `pipeline/store.py`
ADDRESS/data/<dataset>.tar       logs that were collected
ADDRESS/unfinished/<unit>.tar    checkpoints of a unit that is worked on
ADDRESS/trained/<unit>           says that its policies are in the store
ADDRESS/runs/<run>.tar           the folder of a finished run
ADDRESS/results/<unit>.tar       the results of all runs of a finished unit
ADDRESS/failed/<unit>            why a unit failed
ADDRESS/report/                  the files of the last report

An object appears whole, and the results of a unit, which say that it is finished, come last. There
are no locks: two machines that work on one unit at once do it twice, and each object is that of one
of them. So the shares of a sweep should not overlap.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import logging

from proco_jax.common.files import digests, locked, try_locked, write_text
from proco_jax.common.object_store import ObjectStore
from proco_jax.config.schema import Config
from proco_jax.data.collection import lock_of, make_recipe, recipe_id
from proco_jax.data.minari_store import dataset_root
from proco_jax.envs.tasks import get_task
from proco_jax.pipeline.store import attach
from proco_jax.pipeline.workdir import STORE
from proco_jax.sweeps.description import Unit
from proco_jax.sweeps.folder import FAILURE, PLAN, RUNS, TRAINED, UNITS, Root, read_plan
from proco_jax.sweeps.queue import LOCK, Work

_REPORT = "report"
_CHECKPOINT = "sha256-*.json"


class Remote(NamedTuple):
    """The place of a sweep in an object store, and the folder where this machine works on it."""

    place: ObjectStore
    root: Root

    def open(self) -> None:
        """Makes the local store a part of the one there, and copies the plan if there is one.

        Raises:
          OSError: if the object store cannot be reached.
          ImportError: if obstore is not installed.
        """
        plan = self.place.read(PLAN)
        if plan is not None:
            write_text(self.root.path / PLAN, plan)
        attach(self.root.store, f"{self.place.address}/{STORE}")

    def put_plan(self) -> None:
        """Puts the local plan there, unless it is the same."""
        text = (self.root.path / PLAN).read_text()
        if self.place.read(PLAN) != text:
            self.place.write(PLAN, text)

    def finished(self, unit: Unit) -> bool:
        """Whether the results of a unit are there."""
        return self.place.has_folder(f"results/{unit.name}")

    def trained(self, unit: Unit) -> bool:
        """Whether the policies of a unit are there."""
        return self.place.exists(f"trained/{unit.name}")

    def get_results(self) -> None:
        """Copies the results that the local folder lacks, and the states of unfinished units."""
        units: dict[str, list[str]] = {}
        for run in read_plan(self.root):
            units.setdefault(run.unit, []).append(run.name)
        there = set(self.place.folder_names("results"))
        trained, failed = set(self.place.names("trained")), set(self.place.names("failed"))
        for unit, runs in units.items():
            folder = self.root.unit(unit)
            if unit not in there:
                if unit in trained:
                    write_text(folder / TRAINED, "{}\n")
                if unit in failed and (text := self.place.read(f"failed/{unit}")):
                    write_text(folder / FAILURE, text)
                else:
                    (folder / FAILURE).unlink(missing_ok=True)
            elif not all(self.root.run_finished(run) for run in runs):
                self._get_results(unit)

    def put_report(self, folder: Path) -> None:
        """Puts the files of a report there."""
        for path in folder.iterdir():
            if path.is_file():
                self.place.write(f"{_REPORT}/{path.name}", path.read_bytes())

    def _get_results(self, unit: str) -> None:
        # A process that works on the unit here will find out by itself.
        with try_locked(self.root.unit(unit) / LOCK, logging.info, None) as mine:
            if not mine:
                return
            with self.place.folder(f"results/{unit}", self.root.path) as copy:
                if copy is None:
                    return
                for name in (RUNS, UNITS):
                    for found in (copy / name).iterdir():
                        target = self.root.path / name / found.name
                        shutil.copytree(found, target, dirs_exist_ok=True)


def open_remote(address: str, local: str) -> Remote:
    """The sweep at an address.

    Args:
      local: folder where this machine works; empty for one in `runs` that is named for the address.

    Raises:
      OSError: if the object store cannot be reached.
      ImportError: if obstore is not installed.
    """
    address = address.rstrip("/")
    name = f"{address.rsplit('/', 1)[-1]}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    remote = Remote(ObjectStore(address), Root(Path(local or f"runs/{name}").absolute()))
    remote.open()
    return remote


@dataclasses.dataclass(frozen=True)
class RemoteWork:
    """Work on units whose results go to an object store.

    Attributes:
      work: on a unit in the local folder.
      remote: where its results go.
      trains_only: whether nothing is left to do for a unit that is trained.
      seconds: between copies of the checkpoints of unfinished work.
    """

    work: Work
    remote: Remote
    trains_only: bool = False
    seconds: float = 300.0

    @property
    def root(self) -> Root:
        """The local folder."""
        return self.remote.root

    def prepare(self) -> None:
        """Called once in each process, also on other machines."""
        self.work.prepare()
        self.remote.open()

    def is_done(self, unit: Unit) -> bool:
        """Whether the results of a unit are in the object store, or its policies if they do."""
        return self.remote.finished(unit) or (self.trains_only and self.remote.trained(unit))

    def is_trained(self, unit: Unit) -> bool:
        """Whether the policies of a unit are in the object store."""
        return self.remote.trained(unit)

    def __call__(self, unit: Unit, log: Callable[[str], None]) -> None:
        """Does the work, with what other machines have left, and puts its results there."""
        place, root = self.remote.place, self.root
        self._get_data(unit, log)
        if self.remote.trained(unit):
            write_text(root.unit(unit.name) / TRAINED, "{}\n")
        else:
            self._get_checkpoints(unit, log)
        try:
            with self._checkpoints_kept(unit):
                self.work(unit, log)
        except Exception as error:
            # Where the object store itself fails, its first error says so.
            with contextlib.suppress(OSError):
                message = f"{type(error).__name__}: {error}"
                place.write(f"failed/{unit.name}", json.dumps({"error": message}) + "\n")
            raise
        self._put_data(unit)
        if root.unit_finished(unit):
            for run in unit.runs:
                folder = root.run(run.name)
                place.put_folder(f"runs/{run.name}", folder.parent, [folder])
        place.write(f"trained/{unit.name}", "")
        if root.unit_finished(unit):
            place.put_folder(f"results/{unit.name}", root.path, self._result_files(unit))
        place.remove(f"failed/{unit.name}")
        place.remove_folder(f"unfinished/{unit.name}")

    def _result_files(self, unit: Unit) -> list[Path]:
        """The files of a unit and of its runs, without policies, pictures and checkpoints."""
        folders = [self.root.unit(unit.name), *(self.root.run(run.name) for run in unit.runs)]
        files = [path for folder in folders for path in folder.iterdir() if path.is_file()]
        return [path for path in files if not path.name.endswith(".lock")]

    def _get_data(self, unit: Unit, log: Callable[[str], None]) -> None:
        """Copies the logs of a unit that another machine has collected."""
        name, folder = _collected(unit.runs[0].config)
        if not name or folder.exists():
            return
        with locked(lock_of(folder), log):
            # Another process may have made them meanwhile.
            if folder.exists():
                return
            with self.remote.place.folder(f"data/{name}", folder.parent) as copy:
                if copy is not None:
                    (copy / folder.name).rename(folder)
                    log(f"   logs of another machine: {folder}")

    def _put_data(self, unit: Unit) -> None:
        name, folder = _collected(unit.runs[0].config)
        place = self.remote.place
        if name and folder.exists() and not place.has_folder(f"data/{name}"):
            place.put_folder(f"data/{name}", folder.parent, [folder])

    def _get_checkpoints(self, unit: Unit, log: Callable[[str], None]) -> None:
        """Copies checkpoints of unfinished work where this machine has none."""
        root = self.root.path
        with self.remote.place.folder(f"unfinished/{unit.name}", root) as copy:
            if copy is None:
                return
            for folder in {path.parent for path in copy.rglob(_CHECKPOINT)}:
                target = root / folder.relative_to(copy)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    folder.rename(target)
                    log(f"   checkpoints of another machine: {target.relative_to(root)}")

    @contextlib.contextmanager
    def _checkpoints_kept(self, unit: Unit) -> Iterator[None]:
        """Puts checkpoints of unfinished work into the object store from time to time."""
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(self.seconds):
                try:
                    self.put_checkpoints(unit)
                except (OSError, ValueError) as error:
                    logging.warning("checkpoints of %s were not kept: %s", unit.name, error)

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def put_checkpoints(self, unit: Unit) -> None:
        """Puts all whole checkpoints of a unit, and of the artifacts in the making, there."""
        root = self.root.path
        sources = [self.root.unit(unit.name), *self.root.store.glob("*/*.partial")]
        with tempfile.TemporaryDirectory(prefix=".transfer-", dir=root) as name:
            copy = Path(name)
            for source in sources:
                for path in source.rglob(_CHECKPOINT):
                    _copy_checkpoint(path, copy / path.parent.relative_to(root))
            if found := [copy / part for part in (UNITS, STORE) if (copy / part).exists()]:
                self.remote.place.put_folder(f"unfinished/{unit.name}", copy, found)


def _copy_checkpoint(recorded: Path, target: Path) -> None:
    """Copies a checkpoint and its digests, unless it changes or vanishes meanwhile."""
    step = recorded.stem.rpartition("-")[2]
    try:
        expected = json.loads(recorded.read_text())
        shutil.copytree(recorded.parent / step, target / step)
    except (OSError, ValueError):
        shutil.rmtree(target / step, ignore_errors=True)
        return
    if digests(target / step) != expected:
        shutil.rmtree(target / step)
        return
    write_text(target / recorded.name, json.dumps(expected, indent=1) + "\n")


def _collected(config: Config) -> tuple[str, Path]:
    """A name for the logs that a run collects itself, and their folder; empty for others."""
    if config.data.source != "collect":
        return "", Path()
    name = recipe_id(make_recipe(get_task(config.task), config.data))
    return name.replace("/", "-"), dataset_root(config.data.root) / name
