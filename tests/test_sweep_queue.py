"""Shares of a sweep, and its queue: nothing twice, nothing lost, one failure stops nothing else."""

import errno
import fcntl
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proco_jax.common import files
from proco_jax.sweeps.description import Sweep, Unit, expand
from proco_jax.sweeps.folder import FAILURE, Root
from proco_jax.sweeps.queue import run_units
from proco_jax.sweeps.shares import Share, find_share, take_share

UNITS = expand(
    Sweep(("point_goal",), "quick", hyperparameters={"train.batch": (8, 16, 32, 64)}, seeds=1)
)
Log = Callable[[str], None]


def worker(root: Root, calls: list[str], seconds: float = 0.0) -> Callable[[Unit, Log], None]:
    def work(unit: Unit, log: Log) -> None:
        calls.append(unit.name)
        time.sleep(seconds)
        for run in unit.runs:
            files.write_text(root.run(run.name) / "done.json", "{}")

    return work


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_all_units_each_once(count: int) -> None:
    found = [x for i in range(count) for x in take_share(range(5), Share(i, count))]
    assert sorted(found) == list(range(5))


@pytest.mark.parametrize(
    ("flag", "environment", "expected"),
    [
        ("", {}, (0, 1)),
        ("2/5", {"SLURM_ARRAY_TASK_ID": "0"}, (2, 5)),
        ("", {"SKYPILOT_JOB_RANK": "3", "SKYPILOT_NUM_JOBS": "4"}, (3, 4)),
        ("", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, (3, 4)),
        (
            "",
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
            },
            (3, 4),
        ),
        ("", {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "8"}, (0, 8)),
        (
            "",
            {
                "JOB_COMPLETION_INDEX": "1",
                "JOB_COMPLETIONS": "8",
                "SKYPILOT_JOB_RANK": "0",
                "SKYPILOT_NUM_JOBS": "2",
            },
            (0, 2),
        ),
    ],
)
def test_the_share_is_that_of_the_flag_or_of_the_first_variables(
    flag: str, environment: dict[str, str], expected: tuple[int, int]
) -> None:
    assert find_share(flag, environment)[:2] == expected


@pytest.mark.parametrize(
    ("flag", "environment", "words"),
    [
        ("2", {}, "expected i/n"),
        ("4/4", {}, "from 0 to count - 1"),
        ("-1/4", {}, "from 0 to count - 1"),
        ("a/b", {}, "whole numbers"),
        ("", {"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETIONS"),
        ("", {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "4"}, "steps of 1"),
    ],
)
def test_a_wrong_share_is_an_error(flag: str, environment: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find_share(flag, environment)


def test_finished_units_are_skipped(tmp_path: Path) -> None:
    root, calls = Root(tmp_path), []
    lines: list[str] = []
    work = worker(root, calls)
    first = run_units(root, UNITS[:2], root.unit_finished, work, lines.append)
    assert first == (2, 0, {})
    again = run_units(root, UNITS, root.unit_finished, work, lines.append)
    assert again == (2, 2, {}) and calls == [unit.name for unit in UNITS]
    assert first.plus(again) == (4, 2, {})


def test_a_failure_stops_nothing_else_and_is_tried_again(tmp_path: Path) -> None:
    root, calls = Root(tmp_path), []
    work = worker(root, calls)

    def fails(unit: Unit, log: Log) -> None:
        if unit is UNITS[1]:
            raise FloatingPointError("loss not finite")
        work(unit, log)

    outcome = run_units(root, UNITS, root.unit_finished, fails, lambda line: None)
    assert outcome.done == 3 and set(outcome.failed) == {UNITS[1].name}
    path = root.unit(UNITS[1].name) / FAILURE
    found = json.loads(path.read_text())
    assert found["error"] == "FloatingPointError: loss not finite" and found["host"]
    assert run_units(root, UNITS, root.unit_finished, work, lambda line: None) == (1, 3, {})
    assert not path.exists()


def test_a_full_disk_stops_the_queue_with_a_clear_error(tmp_path: Path) -> None:
    root, calls = Root(tmp_path), []

    def fills(unit: Unit, log: Log) -> None:
        calls.append(unit.name)
        with files.disk_full_explained(root.unit(unit.name) / "x"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="free space on that disk, then run the same command again"):
        run_units(root, UNITS, root.unit_finished, fills, lambda line: None)
    assert len(calls) == 1
    outcome = run_units(root, UNITS, root.unit_finished, worker(root, []), lambda line: None)
    assert outcome == (4, 0, {})


def test_two_workers_share_all_units_and_no_unit_is_done_twice(tmp_path: Path) -> None:
    root, calls = Root(tmp_path), []
    lines: list[str] = []
    outcomes = []

    def run() -> None:
        work = worker(root, calls, seconds=0.05)
        outcomes.append(run_units(root, UNITS, root.unit_finished, work, lines.append))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(calls) == sorted(unit.name for unit in UNITS)
    assert sum(outcome.done for outcome in outcomes) == 4
    assert all(outcome.done + outcome.skipped == 4 for outcome in outcomes)


def test_a_busy_unit_is_put_off_and_its_worker_named(tmp_path: Path) -> None:
    root, calls = Root(tmp_path), []
    lines: list[str] = []
    folder = root.unit(UNITS[0].name)
    folder.mkdir(parents=True)
    (folder / "holder.json").write_text('{"host": "other-host", "process": 17}')
    with open(folder / ".unit.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = threading.Thread(
            target=run_units,
            args=(root, UNITS, root.unit_finished, worker(root, calls), lines.append),
        )
        done.start()
        for _ in range(1000):
            if any("waiting until it ends" in line for line in lines):
                break
            time.sleep(0.01)
    done.join(30)
    assert calls == [unit.name for unit in (*UNITS[1:], UNITS[0])]
    assert any("process 17 on other-host" in line for line in lines)


def test_a_file_system_without_locks_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(handle: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    held = files.try_locked(tmp_path / "lock", print, None)
    with pytest.raises(OSError, match="this file system has no locks"), held:
        pass
