"""A sample of the faults of `benchmarks/faults.py`: none survives, and each class is meant."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.fault_fits import InterruptedFits
from benchmarks.fault_hdf5 import SPOILS, HostileFiles
from benchmarks.fault_outcomes import DAMAGES, SURVIVORS, Finding, Outcome, damaged, judge, observe
from benchmarks.fault_replies import HostileReplies
from benchmarks.faults import table


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> HostileFiles:
    return HostileFiles(tmp_path_factory.mktemp("hdf5"))


@pytest.mark.parametrize("first", range(0, 120, 30))
def test_no_hostile_file_survives(hostile: HostileFiles, first: int) -> None:
    found = [
        observe(hostile.fault, np.random.default_rng([5, i])) for i in range(first, first + 30)
    ]
    assert [f for f in found if f[1] in SURVIVORS] == []
    assert {f[1] for f in found} >= {Outcome.REFUSED, Outcome.HARMLESS}


def test_files_that_store_the_same_numbers_in_another_way_are_read(
    hostile: HostileFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {name: spoil for name, spoil in SPOILS.items() if name.startswith("same")}
    monkeypatch.setattr("benchmarks.fault_hdf5.SPOILS", same)
    found = [observe(hostile.fault, np.random.default_rng([6, i])) for i in range(30)]
    read = [f for f in found if ": same, " in f[0]]
    assert read and {f[1] for f in read} == {Outcome.HARMLESS}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_an_interrupted_fit_with_a_damaged_file_ends_equally_or_in_words(
    tmp_path: Path, seed: int
) -> None:
    fault, outcome, note = observe(
        InterruptedFits(tmp_path / "fits").fault, np.random.default_rng([7, seed])
    )
    assert outcome not in SURVIVORS, (fault, note)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_no_damage_of_recorded_replies_changes_a_rule(tmp_path: Path, seed: int) -> None:
    replies = HostileReplies(tmp_path)
    fault, outcome, note = observe(replies.recorded_fault, np.random.default_rng([8, seed]))
    assert outcome not in SURVIVORS, (fault, note)


@pytest.mark.parametrize("kind", sorted({*DAMAGES} - {"delete"}))
def test_damage_is_real_and_the_same_for_a_seed(kind: str) -> None:
    content = bytes(range(1, 256)) * 5
    for seed in range(20):
        spoiled, words = damaged(content, kind, np.random.default_rng(seed))
        assert spoiled != content and words
        assert damaged(content, kind, np.random.default_rng(seed)) == (spoiled, words)
    if kind == "flip":
        bits = np.unpackbits(np.frombuffer(content, np.uint8) ^ np.frombuffer(spoiled, np.uint8))
        assert bits.sum() == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("/run/cost.json is damaged; remove it"), Outcome.REFUSED),
        (ValueError("Expecting value: line 1 column 1 (char 0)"), Outcome.TRACEBACK),
        (ValueError(""), Outcome.TRACEBACK),
        (ValueError("/run: Traceback (most recent call last)"), Outcome.TRACEBACK),
        (ValueError("/run" + "x" * 10_000), Outcome.TRACEBACK),
    ],
)
def test_an_error_is_judged_by_what_it_names(error: Exception, outcome: Outcome) -> None:
    assert judge(error, ("/run",))[0] is outcome


def test_an_error_of_another_kind_and_too_much_memory_are_survivors() -> None:
    def wrong_kind(rng: np.random.Generator) -> Any:
        raise KeyError("x")

    def silent(rng: np.random.Generator) -> Any:
        return "a flip", lambda: (Outcome.SILENT, "other weights"), ("",)

    assert observe(wrong_kind, np.random.default_rng(0))[1] is Outcome.TRACEBACK
    assert observe(silent, np.random.default_rng(0)) == ("a flip", Outcome.SILENT, "other weights")


def test_the_table_counts_outcomes_and_lists_survivors() -> None:
    findings = [
        Finding(0, "HDF5", "a link", Outcome.REFUSED, "is a link", 0.1),
        Finding(1, "HDF5", "a flip", Outcome.SILENT, "other episodes", 0.1),
        Finding(2, "kills", "killed", Outcome.MENDED, "", 9.0),
    ]
    lines = table(findings).splitlines()
    assert lines[2] == "| HDF5 | 2 | 1 | 0 | 0 | 0 | 1 | 0 | 0 |"
    assert lines[4] == "| all | 3 | 1 | 1 | 0 | 0 | 1 | 0 | 0 |"
    assert "1 of 3 faults survived." in lines and lines[-1].startswith("- fault 1: HDF5, a flip")
