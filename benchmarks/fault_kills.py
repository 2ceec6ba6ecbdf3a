"""Kills of a running tiny pipeline, and damage between two runs of the same command."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fault_outcomes import Finding, Outcome, damage
from benchmarks.small_settings import SMALL, one_compilation, small_config, small_flags
from proco_jax.common import checksums
from proco_jax.common.files import write_text
from proco_jax.config.schema import Config
from proco_jax.pipeline.workdir import TIMING

# The smallest run with every kind of saved file.
SETTINGS: dict[str, Any] = SMALL | {
    "seeds": 1,
    "algorithms": ("bc",),
    "augmentations": ("proco",),
    "shields": ("planner",),
    "knowledge.model": "recorded",
    # The small cost network calls every row unsafe.
    "bc.safe_only": False,
    "evaluation.interim_episodes": 0,
}
SECONDS = "seconds"
POLICY = ("bc", "proco")
TIMEOUT_S = 1800.0
MOST_KILLS = 4
# How many chains of kills and reruns, by turns, are made however long they take.
LEAST = 2
# Times, and what only a person reads, may differ between two runs.
_UNCOMPARED = {TIMING, "metrics.jsonl", "report.md", checksums.NAME, ".lock", "replies.jsonl"}
_KINDS = ("data", "store", "run")


def home(folder: Path) -> Path:
    """The folder of the undisturbed run, in which faults are injected."""
    return folder / "home"


def pristine(folder: Path) -> Path:
    """The copy of it that stays as it is."""
    return folder / "pristine"


def config_of(at: Path) -> Config:
    """The config of the tiny run with its data in `at / "data"`."""
    return small_config(_settings(at))


def finish_undisturbed(folder: Path) -> None:
    """Runs the tiny pipeline to its end, unless the folder holds it already.

    Raises:
      RuntimeError: if the command fails.
    """
    if pristine(folder).exists():
        shutil.rmtree(home(folder), ignore_errors=True)
        shutil.copytree(pristine(folder), home(folder))
        return
    shutil.rmtree(home(folder), ignore_errors=True)
    begun = time.monotonic()
    status, output = _finish(folder, home(folder))
    if status != 0:
        raise RuntimeError(f"the undisturbed run failed:\n{output[-3000:]}")
    print(f"undisturbed run: {time.monotonic() - begun:.0f} s", flush=True)
    partial = folder / "pristine.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(home(folder), partial)
    partial.rename(pristine(folder))


def measure_undisturbed(folder: Path) -> None:
    """Runs the tiny pipeline once more with compiled programs, which times it.

    Raises:
      RuntimeError: if the command fails, or its results are others.
    """
    if (folder / SECONDS).exists():
        return
    at = folder / "killed"
    shutil.rmtree(at, ignore_errors=True)
    begun = time.monotonic()
    status, output = _finish(folder, at)
    if status != 0:
        raise RuntimeError(f"the undisturbed run failed:\n{output[-3000:]}")
    seconds = time.monotonic() - begun
    if changed := differences(pristine(folder), at):
        raise RuntimeError(f"two undisturbed runs differ: {', '.join(changed)}")
    print(f"with compiled programs: {seconds:.0f} s", flush=True)
    write_text(folder / SECONDS, str(seconds))


def set_environment(folder: Path) -> None:
    """Sets this process's environment to that of the commands."""
    os.environ.update(_environment(folder))


def kill_and_rerun(folder: Path, seed: int, end: float) -> Iterator[Finding]:
    """Kills and reruns the tiny pipeline while this likely ends before `time.monotonic()` is `end`.

    The first `LEAST` are made in any case. Needs `finish_undisturbed` and `measure_undisturbed`.

    A run begins anew and is killed up to `MOST_KILLS` times, at random moments; every second kill
    also damages a file that it left. Then a finished run loses or has damaged one file.
    """
    # Starting anew after each kill takes about as long as the run.
    longest = [2 * MOST_KILLS * _duration(folder), 2 * _duration(folder)]
    for number in itertools.count():
        begun = time.monotonic()
        if number >= LEAST and begun + longest[number % 2] >= end:
            return
        rng = np.random.default_rng([seed, 1, number])
        kind, make = [("kills", _chain), ("reruns", _rerun)][number % 2]
        fault, outcome, note = make(folder, rng)
        longest[number % 2] = time.monotonic() - begun
        yield Finding(-1 - number, kind, fault, outcome, note, longest[number % 2])


def _chain(folder: Path, rng: np.random.Generator) -> tuple[str, Outcome, str]:
    """One run from its beginning, killed several times."""
    at = folder / "killed"
    shutil.rmtree(at, ignore_errors=True)
    faults, outcome, note = [], Outcome.MENDED, ""
    for kill in range(MOST_KILLS):
        # Starting takes a good part of the time of a tiny run; few kills shall fall into it.
        wait = float(rng.uniform(0.2, 1.0) * _duration(folder))
        status, output = _killed(folder, at, wait)
        if status == 0:
            if not faults:
                faults, outcome = ["ended before the first kill"], Outcome.HARMLESS
            break
        if status != -signal.SIGKILL:
            return f"before kill {kill}", *_failed(status, output)
        faults.append(f"killed after {wait:.0f} s")
        files = _saved(at)
        if kill % 2 == 0 or not files:
            continue
        path = files[int(rng.integers(len(files)))]
        content = path.read_bytes()
        faults.append(f"{path.parent.name}/{damage(path, rng)}")
        status, output = _finish(folder, at)
        if status == 0:
            break
        outcome, note = _failed(status, output)
        if outcome is not Outcome.REFUSED:
            return "; ".join(faults), outcome, note
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    # Without this file, everything that is saved is read once more.
    (at / "run" / "done.json").unlink(missing_ok=True)
    status, output = _finish(folder, at)
    if status != 0:
        return "; ".join(faults), Outcome.TRACEBACK, f"not resumed: {output[-1500:]}"
    if changed := differences(pristine(folder), at):
        outcome, note = Outcome.SILENT, f"other content: {', '.join(changed[:4])}"
    return "; ".join(faults), outcome, note


def _rerun(folder: Path, rng: np.random.Generator) -> tuple[str, Outcome, str]:
    """A finished run, one file of which is damaged; the advice of an error is followed."""
    at = home(folder)
    finish_undisturbed(folder)
    # Without this file, everything that is saved is read.
    (at / "run" / "done.json").unlink()
    files = _saved(at)
    path = files[int(rng.integers(len(files)))]
    fault = f"{path.relative_to(at).parent}/{damage(path, rng)}"
    outcome, note = Outcome.HARMLESS, ""
    for _ in range(3):
        status, output = _finish(folder, at)
        if status == 0:
            break
        outcome, note = _failed(status, output)
        if outcome is not Outcome.REFUSED:
            return fault, outcome, note
        removed = _to_remove(note, at) or path
        if removed.is_dir():
            shutil.rmtree(removed)
        else:
            removed.unlink(missing_ok=True)
    else:
        return fault, Outcome.TRACEBACK, f"the advice does not help: {note}"
    # Removed curves are missing, as the advice says.
    curves = "metrics.jsonl" not in fault
    if changed := differences(pristine(folder), at, curves):
        outcome, note = Outcome.SILENT, f"other content: {', '.join(changed[:4])}"
    finish_undisturbed(folder)
    return fault, outcome, note


def _to_remove(advice: str, at: Path) -> Path | None:
    """What a message says to remove: the path after the word, or "that folder", named before."""
    inside = rf"({re.escape(str(at))}[^\s,;:]*)"
    found = re.search(f"remove {inside}", advice)
    if found is None and re.search(r"remove that (folder|file)", advice):
        found = re.search(inside, advice)
    return Path(found[1]) if found else None


def differences(left: Path, right: Path, curves: bool = True) -> list[str]:
    """The files of two runs whose content differs, or that only one of them has.

    Compared are the results and reports of the run, byte for byte, and the bits of all weights; not
    the containers in which a library writes them.

    Args:
      left: home of the undisturbed run.
      right: home of the other one.
      curves: also compare the metrics of training.
    """
    found = {}
    for side in (left, right):
        run = side / "run"
        files = {
            path.relative_to(side).as_posix(): path.read_bytes()
            for path in run.glob("*")
            if path.is_file() and path.name not in _UNCOMPARED
        }
        for name in list(files):
            # The setting data.root.
            for other in ("home", "killed"):
                files[name] = files[name].replace(str(left.parent / other).encode(), b"HOME")
            # The folder may be kept while the package is worked on.
            files[name] = re.sub(rb'"commit": "[^"]*"', b"", files[name])
        if curves:
            # A stage that was made anew stands last.
            lines = (run / "metrics.jsonl").read_text().splitlines()
            files["metrics.jsonl"] = json.dumps(sorted(lines)).encode()
        found[side] = files
    names = found[left].keys() | found[right].keys()
    changed = [name for name in names if found[left].get(name) != found[right].get(name)]
    return sorted(changed) + _other_weights(left, right)


def _other_weights(left: Path, right: Path) -> list[str]:
    from benchmarks.fault_arrays import arrays_below, same_arrays

    changed = []
    for part in ("store", "run/policies"):
        a, b = arrays_below(left / part), arrays_below(right / part)
        for name in a.keys() | b.keys():
            if name not in a or name not in b or not same_arrays(a[name], b[name]):
                changed.append(f"{part}/{name}")
    return sorted(changed)


def _saved(at: Path) -> list[Path]:
    files = [p for kind in _KINDS for p in (at / kind).rglob("*") if p.is_file()]
    skipped = {".lock", "report.md"}
    return sorted(
        p for p in files if p.name not in skipped and p.suffix not in (".png", ".lock", ".part")
    )


def _failed(status: int, output: str) -> tuple[Outcome, str]:
    """What a command that failed tells, and whether in words."""
    if status == -signal.SIGALRM:
        return Outcome.HANG, output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    if "Traceback (most recent call last)" in output or not lines:
        return Outcome.TRACEBACK, f"status {status}: {output[-1500:]}"
    return Outcome.REFUSED, lines[-1]


def _killed(folder: Path, at: Path, wait: float) -> tuple[int, str]:
    """The command, killed after a time; its status and output if it ended before."""
    process = _start(folder, at)
    try:
        output, _ = process.communicate(timeout=wait)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
    return process.returncode, output


def _finish(folder: Path, at: Path) -> tuple[int, str]:
    process = _start(folder, at)
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return -signal.SIGALRM, f"no end after {TIMEOUT_S:g} s"
    return process.returncode, output


def _duration(folder: Path) -> float:
    """Seconds of an undisturbed run whose programs are compiled."""
    return float((folder / SECONDS).read_text())


def _start(folder: Path, at: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "proco_jax.main", *small_flags(at / "run", _settings(at))],
        env=os.environ | _environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _settings(at: Path) -> dict[str, Any]:
    return {"data.root": str(at / "data"), **SETTINGS}


def _environment(folder: Path) -> dict[str, str]:
    optimization = {"XLA_FLAGS": "--xla_backend_optimization_level=1"}
    return one_compilation(folder / "compiled") | optimization
