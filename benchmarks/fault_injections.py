"""Cheap faults, injected in one process into the tiny run of `faults.py`."""

import json
import logging
import resource
import shutil
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging as absl_logging

from benchmarks.fault_arrays import arrays_below, same_arrays
from benchmarks.fault_hdf5 import HostileFiles
from benchmarks.fault_kills import POLICY, config_of, home, pristine
from benchmarks.fault_observations import HostileCalls
from benchmarks.fault_outcomes import Finding, Outcome, damage
from benchmarks.fault_replies import HostileReplies
from proco_jax.common.checkpoint import load_arrays
from proco_jax.common.files import read_npz
from proco_jax.common.metrics import MetricsWriter, load_metrics
from proco_jax.config.schema import replaced
from proco_jax.data.logs import load_logs
from proco_jax.data.minari_store import list_datasets, read_dataset
from proco_jax.deployment.policy import load_policies
from proco_jax.evaluation.results import load_rows
from proco_jax.pipeline.checkpointed_fit import run_fit
from proco_jax.pipeline.store import artifact
from proco_jax.pipeline.workdir import TIMING, Run, open_run
from proco_jax.types import LabeledStates

# What a command reports in one line, see `command_line.report_errors`.
DOCUMENTED = (ValueError, OSError, ImportError, FloatingPointError)
MOST_BYTES = 1_500_000_000
LONGEST_MESSAGE = 2500
_JSON = ("dataset.json", "dynamics.json", "cost.json", "feasibility.json", "rollouts.json")

Found = tuple[Outcome, str]
# What was done, the check that follows, and texts one of which an error must contain.
Fault = tuple[str, Callable[[], Found], tuple[str, ...]]


class Remade(Exception):
    """An artifact is not in the store, so that a run makes it anew."""


class Injections:
    """The faults of one seed.

    Args:
      folder: of the undisturbed run.
      seed: of the stream.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        absl_logging.set_verbosity(absl_logging.FATAL)
        logging.disable(logging.CRITICAL)
        self._seed, self._home, self._pristine = seed, home(folder), pristine(folder)
        self._scratch = folder / "scratch"
        self._restore()
        self._config = config_of(self._home)
        self._content = {
            p.relative_to(self._home): p.read_bytes() for p in self._home.rglob("*") if p.is_file()
        }
        self._arrays = {part: arrays_below(self._home / part) for part in ("store", "run/policies")}
        self._like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x,
            self._arrays["store"],
        )
        self._policies = load_policies(self._home / "run", *POLICY)[1]
        (self._dataset,) = list_datasets(self._home / "data")
        self._logs = load_logs(self._config, self._home / "run", _quiet)
        self._hdf5 = HostileFiles(self._scratch)
        self._replies = HostileReplies(self._scratch, self._logs)
        self._calls = HostileCalls(self._home / "run", self._logs.episodes[0].obs[0])
        self._kinds: dict[str, Callable[[np.random.Generator], Fault]] = {
            "saved files": self._saved_file,
            "dataset": self._dataset_file,
            "checkpoints": self._checkpoint,
            "HDF5": self._hdf5.fault,
            "replies": self._replies.fault,
            "reply cache": self._replies.cache_fault,
            "observations": self._calls.fault,
        }

    def inject(self, number: int, kind: str, verbose: bool = False) -> Finding:
        """Fault `number`, of a kind, whose damage is repaired afterwards."""
        begun, before = time.monotonic(), _peak_bytes()
        rng = np.random.default_rng([self._seed, 2, number])
        fault, words = "", ("",)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fault, check, words = self._kinds[kind](rng)
                outcome, note = check()
        except Remade as made:
            outcome, note = Outcome.MENDED, f"made anew: {made}"
        except DOCUMENTED as error:
            outcome, note = _judge(error, words)
        except Exception:
            outcome, note = Outcome.TRACEBACK, traceback.format_exc()[-1500:]
        if verbose:
            print(f"{kind}: {fault}\n{outcome}: {note}\n{traceback.format_exc()}")
        if _peak_bytes() - before > MOST_BYTES:
            outcome, note = Outcome.HANG, f"took {(_peak_bytes() - before) / 1e9:.1f} GB; {note}"
        self._repair()
        return Finding(number, kind, fault, outcome, note, time.monotonic() - begun)

    def _saved_file(self, rng: np.random.Generator) -> Fault:
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
            for name in _JSON:
                found, clean = run.read_json(name), self._content[run_folder / name]
                if found is not None and found != json.loads(clean):
                    return Outcome.SILENT, name
            forecast = self._content[run_folder / "violation_forecast.json"]
            found = run.read_json("violation_forecast.json")
            if found is not None and found != json.loads(forecast):
                return Outcome.SILENT, "violation_forecast.json"
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
            found = load_arrays(folder / part, self._like[key])
        same = same_arrays(found, self._arrays["store"][key])
        return (Outcome.HARMLESS, "") if same else (Outcome.SILENT, f"other arrays in {key}")

    def _dataset_file(self, rng: np.random.Generator) -> Fault:
        base = self._home / "data" / self._dataset
        variant = str(rng.choice(["begun", "begun", "full", "foreign"]))
        if variant == "foreign":
            (base / "manifest.json").unlink()
        files = sorted(p for p in base.rglob("*") if p.is_file())
        fault = f"{variant}: {damage(files[int(rng.integers(len(files)))], rng)}"

        def check() -> Found:
            if variant == "foreign":
                episodes = read_dataset(self._home / "data", self._dataset).episodes
                clean = [None] * len(episodes)
                for part, rows in zip(
                    (self._logs.episodes, self._logs.holdout, self._logs.dropped),
                    self._logs.split,
                    strict=True,
                ):
                    for episode, row in zip(part, rows, strict=True):
                        clean[row] = episode
                same = _same_episodes(episodes, clean)
                # Without a manifest, a changed number is a number.
                return (Outcome.HARMLESS, "") if same else (Outcome.OTHER, "other numbers")
            changes = {"data.verify": "full"} if variant == "full" else {}
            logs = load_logs(replaced(self._config, changes), self._home / "run", _quiet)
            same = logs.digest == self._logs.digest
            return (Outcome.HARMLESS, "") if same else (Outcome.SILENT, "other logs")

        return fault, check, (self._dataset,)

    def _checkpoint(self, rng: np.random.Generator) -> Fault:
        """A fit is interrupted, a checkpoint of it damaged, and the fit resumed."""
        folder = self._scratch / "fit"
        shutil.rmtree(folder, ignore_errors=True)
        clean = self._fit(folder / "clean", stop=None)
        stop = int(rng.integers(2, 5)) * 2
        self._fit(folder / "hurt", stop=stop)
        files = sorted(p for p in (folder / "hurt" / "saved").rglob("*") if p.is_file())
        path = files[int(rng.integers(len(files)))]
        fault = f"stopped at {stop}, {path.relative_to(folder).parent}/{damage(path, rng)}"

        def check() -> Found:
            found = self._fit(folder / "hurt", stop=None)
            lines = [load_metrics(folder / x / "metrics.jsonl") for x in ("clean", "hurt")]
            same = same_arrays(found, clean) and lines[0] == lines[1]
            return (Outcome.MENDED, "resumed") if same else (Outcome.SILENT, "another end")

        return fault, check, (str(folder),)

    def _fit(self, folder: Path, stop: int | None) -> Any:
        """A fit of 12 steps; one that stops returns nothing."""
        folder.mkdir(parents=True, exist_ok=True)

        def init() -> Any:
            return {"x": jnp.linspace(0.0, 1.0, 40), "key": jax.random.key(3)}

        def make_chunk(steps: int) -> Any:
            def chunk(state: Any) -> Any:
                x, key = state["x"], state["key"]
                for _ in range(steps):
                    key, used = jax.random.split(key)
                    x = 0.5 * x + jax.random.normal(used, x.shape)
                return {"x": x, "key": key}, {"fit/mean": x.mean()}

            return chunk

        def after_chunk(done: int, state: Any) -> None:
            if stop is not None and done >= stop:
                raise _Stopped

        with MetricsWriter(folder) as metrics:
            run = Run(self._config, folder, folder, metrics, _quiet, timed=False)
            try:
                return run_fit(
                    run, "fit", folder / "saved", 12, 2, make_chunk, init, after_chunk=after_chunk
                )
            except _Stopped:
                return None

    def _restore(self) -> None:
        for folder in (self._home, self._scratch):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._pristine, self._home)
        self._scratch.mkdir()

    def _repair(self) -> None:
        """Puts every file of the run back as it was."""
        for path in self._home.rglob("*"):
            if path.is_file() and path.relative_to(self._home) not in self._content:
                path.unlink()
        for name, content in self._content.items():
            path = self._home / name
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


class _Stopped(Exception):
    """A fit was stopped on purpose."""


def _judge(error: Exception, words: tuple[str, ...]) -> Found:
    """Whether an error of a documented kind explains itself."""
    text = str(error)
    if not text or len(text) > LONGEST_MESSAGE or "Traceback" in text:
        return Outcome.TRACEBACK, f"no message for people: {type(error).__name__}: {text[:1000]}"
    if not any(word in text for word in words):
        return Outcome.TRACEBACK, f"names none of {words}: {type(error).__name__}: {text[:1000]}"
    return Outcome.REFUSED, text


def _same_episodes(left: Any, right: Any) -> bool:
    return len(left) == len(right) and all(
        same_arrays(list(a[:4]), list(b[:4])) and a.terminated == b.terminated
        for a, b in zip(left, right, strict=True)
    )


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _quiet(line: str) -> None:
    pass
