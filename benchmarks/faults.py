"""Faults injected at random into a tiny run, and what the product makes of each of them.

    nice -n 10 python -m benchmarks.faults --minutes=10 --seed=0 --out=faults.json

A tiny run of PROCO is finished once, undisturbed. Before kills it is run again, to know its time
with compiled programs; the results must be equal. Each fault then damages a saved file, presents a
hostile file, reply or observation, or kills the same command at a random moment, and what happens
is compared with the undisturbed run:

- refused: an error of one line that names the file or setting. That of a damaged file says what to
  do.
- mended: what was damaged is made anew, or an older checkpoint is used, with equal results.
- harmless: the results are equal, e.g. because nothing reads the damaged byte.
- other input: the fault left a valid input of another meaning, which nothing can tell from a
  legitimate one, e.g. a model's reply with another digit. It is used as it stands.
- SILENT CHANGE, TRACEBACK, HANG: survivors, which should not exist. A process that dies, or takes
  more than 1.5 GB, counts as a hang.

Fault i of a seed and a list of kinds is always the same: `--only=17` repeats it. Cheap faults run
in a process of their own, so that one that crashes or hangs ends only this process.
"""

import collections
import dataclasses
import itertools
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import fault_kills
from benchmarks.fault_outcomes import SURVIVORS, Finding, Outcome
from proco_jax.common.commands import begin_command
from proco_jax.common.files import write_text
from proco_jax.report.tables import markdown_table

# Kinds of cheap faults with their shares.
SHARES = {
    "saved files": 0.30,
    "dataset": 0.12,
    "checkpoints": 0.08,
    "HDF5": 0.18,
    "replies": 0.10,
    "reply cache": 0.10,
    "observations": 0.12,
}
# Faults that run commands, which takes long.
KILLS = "kills"
# What needs the undisturbed run.
ON_RUN = {KILLS, "saved files", "dataset", "observations"}
# Share of the time that is given to kills.
KILL_TIME = 0.4
PATIENCE_S = 300.0
START_S = 900.0


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_float("minutes", 10.0, "time for faults, after the undisturbed run", 0.0)
    flags.DEFINE_integer("seed", 0, "of the stream of faults", lower_bound=0)
    flags.DEFINE_integer("only", -1, "repeat one fault by its number")
    flags.DEFINE_list("kinds", [KILLS, *SHARES], "which kinds of faults")
    flags.DEFINE_string("folder", "", "folder of the undisturbed run, kept; else a temporary one")
    flags.DEFINE_string("out", "", "JSON file for the findings")
    app.run(main)


def main(argv: Sequence[str]) -> None:
    """Injects faults until the time is over, and prints a table."""
    begin_command(argv)
    o = flags.FLAGS
    if unknown := sorted({*o.kinds} - {KILLS, *SHARES}):
        raise app.UsageError(f"--kinds: found {unknown}, expected some of {[KILLS, *SHARES]}")
    only = None if o.only < 0 else o.only
    folder = Path(o.folder or tempfile.mkdtemp(prefix="faults-")).absolute()
    try:
        if ON_RUN & {*o.kinds}:
            fault_kills.finish_undisturbed(folder)
        if KILLS in o.kinds and only is None:
            fault_kills.measure_undisturbed(folder)
        findings = inject(folder, o.minutes, o.seed, o.kinds, only)
    finally:
        if not o.folder:
            shutil.rmtree(folder)
    print(table(findings))
    if o.out:
        content = {"seed": o.seed, "minutes": o.minutes, "summary": summary(findings)}
        content["findings"] = [dataclasses.asdict(f) for f in findings]
        write_text(Path(o.out), json.dumps(content, indent=1) + "\n")
    if any(f.outcome in SURVIVORS for f in findings):
        sys.exit(1)


def inject(
    folder: Path, minutes: float, seed: int, kinds: Sequence[str], only: int | None = None
) -> list[Finding]:
    """Faults 0, 1, ... of a seed until the time is over, or one of them.

    Args:
      folder: of the undisturbed run.
      minutes: time for all. A few kills are made however long they take.
      seed: of the stream.
      kinds: of faults. Kills take a part of the time only; the numbers of the others depend on the
        kinds, so that one is repeated with the same kinds.
      only: number of the one fault to inject.
    """
    findings: list[Finding] = []
    seconds = 60.0 * minutes
    if KILLS in kinds and only is None:
        end = time.monotonic() + KILL_TIME * seconds
        for finding in fault_kills.kill_and_rerun(folder, seed, end):
            findings.append(finding)
            _progress(findings, end - time.monotonic())
        seconds *= 1.0 - KILL_TIME
    names = [name for name in SHARES if name in kinds]
    if not names:
        return findings
    shares = np.array([SHARES[name] for name in names])
    with _Worker(folder, seed, names) as worker:
        end = time.monotonic() + seconds
        for number in itertools.count() if only is None else [only]:
            if only is None and time.monotonic() >= end:
                break
            kind = names[
                np.random.default_rng([seed, number]).choice(len(names), p=shares / shares.sum())
            ]
            findings.append(worker.inject(number, kind, verbose=only is not None))
            _progress(findings, end - time.monotonic())
    return findings


def summary(findings: Sequence[Finding]) -> dict[str, dict[str, int]]:
    """How often each outcome came, by kind of fault."""
    found: dict[str, collections.Counter[str]] = {}
    for finding in findings:
        found.setdefault(finding.kind, collections.Counter())[finding.outcome] += 1
    return {kind: dict(counts) for kind, counts in sorted(found.items())}


def table(findings: Sequence[Finding]) -> str:
    """The summary as a Markdown table, and a line for every survivor."""
    counts = summary(findings)
    outcomes = [str(outcome) for outcome in Outcome]
    counts["all"] = dict(collections.Counter(str(f.outcome) for f in findings))
    rows = [
        (kind, sum(row.values()), *(row.get(outcome, 0) for outcome in outcomes))
        for kind, row in counts.items()
    ]
    survivors = [f for f in findings if f.outcome in SURVIVORS]
    lines = [
        markdown_table(("faults in", "number", *outcomes), rows),
        f"{len(survivors)} of {len(findings)} faults survived.",
    ]
    lines += [f"- fault {f.number}: {f.kind}, {f.fault}: {f.outcome}: {f.note}" for f in survivors]
    return "\n".join(lines)


class _Worker:
    """The process that injects cheap faults; started again after one that ends or stops it."""

    def __init__(self, folder: Path, seed: int, kinds: Sequence[str]) -> None:
        self._given = folder, seed, list(kinds)
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> "_Worker":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _runs(self) -> bool:
        return self._process is not None

    def inject(self, number: int, kind: str, verbose: bool = False) -> Finding:
        """One fault, given by its number and kind."""
        if not self._runs():
            self._start()
        begun = time.monotonic()
        self._pipe.send((number, kind, verbose))
        if self._pipe.poll(PATIENCE_S):
            try:
                return self._pipe.recv()
            except EOFError:
                self._process.join()
                note = f"the process ended with {self._process.exitcode}"
        else:
            note = f"no answer in {PATIENCE_S:g} s"
        self._stop()
        return Finding(number, kind, "", Outcome.HANG, note, time.monotonic() - begun)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, *self._given), daemon=True)
        self._process.start()
        other.close()
        if not self._pipe.poll(START_S):
            raise RuntimeError(f"the process for faults did not start within {START_S:g} s")
        self._pipe.recv()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _work(pipe: Connection, folder: Path, seed: int, kinds: list[str]) -> None:
    """The worker's process."""
    # Before JAX is imported, which reads its settings then.
    fault_kills.set_environment(folder)
    from benchmarks.fault_injections import Injections

    injections = Injections(folder, seed, kinds)
    pipe.send("ready")
    while True:
        number, kind, verbose = pipe.recv()
        pipe.send(injections.inject(number, kind, verbose))


def _progress(findings: Sequence[Finding], left: float) -> None:
    last = findings[-1]
    survivors = sum(f.outcome in SURVIVORS for f in findings)
    line = f"{len(findings)} faults, {survivors} survivors, {max(left, 0):.0f} s left"
    if last.outcome in SURVIVORS:
        print(f"\nfault {last.number}: {last.kind}, {last.fault}: {last.outcome}: {last.note}")
    if sys.stdout.isatty():
        print(f"\r{line}", end="", flush=True)
    elif last.outcome in SURVIVORS or len(findings) % 50 == 1:
        print(line, flush=True)


if __name__ == "__main__":
    run()
