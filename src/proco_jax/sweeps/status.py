"""What is done in the folders of a sweep, and what is left."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from proco_jax.sweeps.folder import FAILURE, TRAINED, PlannedRun, Root, read_plan, unit_seconds


class Progress(NamedTuple):
    """Runs of a sweep by what has become of them.

    Attributes:
      planned: all runs, in the order of the axes.
      finished: names of runs with all their results, and the root that holds each.
      trained: names of runs whose policies are saved and wait for their evaluation.
      failed: error messages by unit.
      seconds: that finished units took together.
    """

    planned: list[PlannedRun]
    finished: dict[str, Root]
    trained: list[str]
    failed: dict[str, str]
    seconds: float

    @property
    def left(self) -> list[PlannedRun]:
        """The runs without all their results."""
        return [run for run in self.planned if run.name not in self.finished]


def sweep_progress(roots: Sequence[Root]) -> Progress:
    """The progress of a sweep whose shares are in one folder or in several.

    Raises:
      FileNotFoundError: if a folder holds no sweep.
      ValueError: if the folders are those of different sweeps, or a plan is damaged.
    """
    plans = [read_plan(root) for root in roots]
    for root, plan in zip(roots, plans, strict=True):
        if plan != plans[0]:
            raise ValueError(
                f"--sweep: {root.path} holds another sweep than {roots[0].path}; give the folders "
                "of one sweep, all written with the same description"
            )
    planned = plans[0]
    finished = {}
    for run in planned:
        for root in roots:
            if root.run_finished(run.name):
                finished.setdefault(run.name, root)
    units: dict[str, list[str]] = {}
    for run in planned:
        units.setdefault(run.unit, []).append(run.name)
    trained, failed, seconds = [], {}, 0.0
    for unit, names in units.items():
        for root in roots:
            folder = root.unit(unit)
            if not folder.exists():
                continue
            seconds += unit_seconds(root, unit)
            left = [name for name in names if name not in finished]
            if left and (folder / TRAINED).exists():
                trained += left
            if left and (folder / FAILURE).exists():
                failed[unit] = _failure(root, unit)
    return Progress(planned, finished, trained, failed, seconds)


def progress_lines(progress: Progress) -> list[str]:
    """The progress as sentences."""
    done, total = len(progress.finished), len(progress.planned)
    lines = [f"{done} of {total} runs are finished, {total - done} are left."]
    if progress.trained:
        lines.append(
            f"{len(progress.trained)} of these are trained and wait for their evaluation "
            "(the same command with --evaluate=only, or without --evaluate)."
        )
    if done and done < total and progress.seconds:
        hours = progress.seconds / done * (total - done) / 3600
        lines.append(f"About {hours:.1f} h of one process are left, at the speed so far.")
    lines += [f"{unit} failed: {error}" for unit, error in progress.failed.items()]
    return lines


def _failure(root: Root, unit: str) -> str:
    try:
        return str(json.loads((root.unit(unit) / FAILURE).read_text())["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown error"
