"""Cheap faults, injected in one process into the tiny run of `faults.py`."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging

from benchmarks.fault_arrays import arrays_below, same_arrays
from benchmarks.fault_fits import InterruptedFits
from benchmarks.fault_hdf5 import HostileFiles
from benchmarks.fault_kills import POLICY, config_of, home, pristine
from benchmarks.fault_observations import HostileCalls
from benchmarks.fault_outcomes import Fault, Finding, Found, Outcome, Remade, damage, observe
from benchmarks.fault_replies import HostileReplies
from proco_jax.common.checkpoint import load_arrays
from proco_jax.common.files import read_npz
from proco_jax.common.metrics import load_metrics
from proco_jax.config.schema import replaced
from proco_jax.data.logs import load_logs
from proco_jax.data.minari_store import list_datasets, read_dataset
from proco_jax.deployment.policy import load_policies
from proco_jax.evaluation.results import load_rows
from proco_jax.pipeline.store import artifact
from proco_jax.pipeline.workdir import TIMING, open_run
from proco_jax.types import LabeledStates

# Files of a run that are read in other ways than its JSON objects.
_OTHERS = {"config.json", "results.json", "checksums.json", TIMING}


class Injections:
    """The faults of one seed.

    Args:
      folder: of the undisturbed run.
      seed: of the stream.
      kinds: of faults that will be asked for.
    """

    def __init__(self, folder: Path, seed: int, kinds: Sequence[str]) -> None:
        absl_logging.set_verbosity(absl_logging.FATAL)
        logging.disable(logging.CRITICAL)
        self._seed, scratch = seed, folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        self._run: DamagedRun | None = None
        self._faults: dict[str, Callable[[np.random.Generator], Fault]] = {}
        if {"saved files", "dataset", "observations"} & {*kinds}:
            self._run = run = DamagedRun(folder, scratch)
            self._faults = {
                "saved files": run.saved_file,
                "dataset": run.dataset_file,
                "observations": HostileCalls(home(folder) / "run", run.obs).fault,
            }
        if "checkpoints" in kinds:
            self._faults["checkpoints"] = InterruptedFits(scratch / "fits").fault
        if "HDF5" in kinds:
            self._faults["HDF5"] = HostileFiles(scratch).fault
        if {"replies", "reply cache"} & {*kinds}:
            replies = HostileReplies(scratch)
            replies.warm_up()
            self._faults |= {"replies": replies.fault, "reply cache": replies.cache_fault}

    def inject(self, number: int, kind: str, verbose: bool = False) -> Finding:
        """Fault `number`, of a kind, whose damage is repaired afterwards."""
        begun = time.monotonic()
        rng = np.random.default_rng([self._seed, 2, number])
        fault, outcome, note = observe(self._faults[kind], rng)
        if verbose:
            print(f"{kind}: {fault}\n{outcome}: {note}")
        if self._run is not None:
            self._run.repair()
        return Finding(number, kind, fault, outcome, note, time.monotonic() - begun)


class DamagedRun:
    """Damages files of a finished run and reads them as the product does.

    Attributes:
      obs: `[O]` an observation of its logs.

    Args:
      folder: of the undisturbed run.
      scratch: folder for copies.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._home, self._pristine, self._scratch = home(folder), pristine(folder), scratch
        shutil.rmtree(self._home, ignore_errors=True)
        shutil.copytree(self._pristine, self._home)
        self._config = config_of(self._home)
        self._content = {
            p.relative_to(self._home): p.read_bytes() for p in self._home.rglob("*") if p.is_file()
        }
        self._arrays = arrays_below(self._home / "store")
        self._like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x,
            self._arrays,
        )
        self._policies = load_policies(self._home / "run", *POLICY)[1]
        (self._dataset,) = list_datasets(self._home / "data")
        # A damaged dataset is never collected again in this process.
        self._reading = replaced(self._config, {"data.source": f"minari:{self._dataset}"})
        self._logs = load_logs(self._reading, scratch / "begun", _quiet)
        self.obs = self._logs.episodes[0].obs[0]

    def saved_file(self, rng: np.random.Generator) -> Fault:
        groups: dict[str, list[Path]] = {}
        for path in self._content:
            inner = "/".join(path.parts[:2])
            skipped = {TIMING, "report.md", ".lock", "replies.jsonl"}
            if (
                inner.startswith("data/")
                or path.name in skipped
                or path.suffix in (".lock", ".png")
            ):
                continue
            group = inner if inner.startswith("store/") or "policies" in inner else "run"
            groups.setdefault(group, []).append(path)
        group = str(rng.choice(sorted(groups)))
        path = sorted(groups[group])[int(rng.integers(len(groups[group])))]
        fault = f"{path.parent}/{damage(self._home / path, rng)}"
        reader = {"run": self._read_run, "run/policies": self._read_policies}
        check = reader.get(group) or (lambda: self._read_artifact(path))
        return fault, check, (str(self._home),)

    def _read_run(self) -> Found:
        run_folder = Path("run")
        missing = [p for p in self._content if p.parent == run_folder]
        missing = [p.name for p in missing if not (self._home / p).exists()]
        with open_run(self._config, self._home / "run", log=_quiet) as run:
            for path in self._content:
                if path.parent != run_folder or path.suffix != ".json" or path.name in _OTHERS:
                    continue
                found = run.read_json(path.name)
                if found is not None and found != json.loads(self._content[path]):
                    return Outcome.SILENT, path.name
        for name, read in (("results.json", load_rows), ("metrics.jsonl", load_metrics)):
            if name in missing:
                continue
            now = read(self._home / "run" / name)
            shutil.copy(self._pristine / "run" / name, self._scratch / name)
            if now != read(self._scratch / name):
                return Outcome.SILENT, name
        return (Outcome.MENDED, f"{missing} made anew") if missing else (Outcome.HARMLESS, "")

    def _read_policies(self) -> Found:
        found = load_policies(self._home / "run", *POLICY)[1]
        same = same_arrays(found, self._policies)
        return (Outcome.HARMLESS, "") if same else (Outcome.SILENT, "other weights")

    def _read_artifact(self, path: Path) -> Found:
        kind, name = path.parts[1:3]
        meta = json.loads(self._content[Path("store", kind, name, "artifact.json")])

        def make(folder: Path) -> None:
            raise Remade(folder.name)

        folder = artifact(self._home / "store", kind, meta["inputs"], make, _quiet)
        if kind == "labels":
            key = f"labels/{name}/labels.npz"
            found: Any = read_npz(folder / "labels.npz", LabeledStates._fields, "remove it")
        else:
            part = "checkpoints" if kind == "policies" else "model"
            key = f"{kind}/{name}/{part}"
            found = load_arrays(folder / part, self._like[key], verified=True)
        same = same_arrays(found, self._arrays[key])
        return (Outcome.HARMLESS, "") if same else (Outcome.SILENT, f"other arrays in {key}")

    def dataset_file(self, rng: np.random.Generator) -> Fault:
        base = self._home / "data" / self._dataset
        variant = str(rng.choice(["begun", "begun", "full", "foreign"]))
        if variant == "foreign":
            (base / "manifest.json").unlink()
        files = sorted(p for p in base.rglob("*") if p.is_file())
        fault = f"{variant}: {damage(files[int(rng.integers(len(files)))], rng)}"

        def check() -> Found:
            if variant == "foreign":
                episodes = read_dataset(self._home / "data", self._dataset).episodes
                clean: list[Any] = [None] * len(episodes)
                for part, rows in zip(
                    (self._logs.episodes, self._logs.holdout, self._logs.dropped),
                    self._logs.split,
                    strict=True,
                ):
                    for episode, row in zip(part, rows, strict=True):
                        clean[row] = episode
                same = same_arrays(episodes, clean)
                # Without a manifest, a changed number is a number.
                return (Outcome.HARMLESS, "") if same else (Outcome.OTHER, "other numbers")
            changes = {"data.verify": "full"} if variant == "full" else {}
            logs = load_logs(replaced(self._reading, changes), self._scratch / "begun", _quiet)
            same = logs.digest == self._logs.digest
            return (Outcome.HARMLESS, "") if same else (Outcome.SILENT, "other logs")

        return fault, check, (self._dataset,)

    def repair(self) -> None:
        """Puts every file of the run back as it was."""
        for path in self._home.rglob("*"):
            if path.is_file() and path.relative_to(self._home) not in self._content:
                path.unlink()
        for name, content in self._content.items():
            path = self._home / name
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def _quiet(line: str) -> None:
    pass
