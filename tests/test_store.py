"""The store of shared artifacts: each is made once, is complete or absent, and is checked."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proco_jax.pipeline.store import ArtifactError, artifact, digest

INPUTS = {"seed": 0, "settings": {"steps": 10, "batch": 4}}


def counting(content: str = "made") -> tuple[list[Path], Callable[[Path], None]]:
    """A maker, and the folders that it was called with."""
    calls: list[Path] = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "arrays").mkdir(exist_ok=True)
        (folder / "arrays" / "data").write_text(content)

    return calls, make


def test_digest_depends_on_the_content_and_not_on_the_order_of_keys() -> None:
    same = {"settings": {"batch": 4, "steps": 10}, "seed": 0}
    assert digest(INPUTS) == digest(same)
    assert digest(INPUTS) != digest({**INPUTS, "seed": 1})
    assert len(digest(INPUTS)) == 12
    with pytest.raises(ValueError):
        digest({"rate": float("nan")})


def test_an_artifact_is_made_once_for_each_of_its_inputs(tmp_path: Path) -> None:
    calls, make = counting()
    lines: list[str] = []
    first = artifact(tmp_path, "dynamics", INPUTS, make, lines.append)
    assert first == tmp_path / "dynamics" / digest(INPUTS) and lines == []
    assert artifact(tmp_path, "dynamics", INPUTS, make, lines.append) == first
    assert len(calls) == 1 and len(lines) == 1 and str(first) in lines[0]
    other = artifact(tmp_path, "dynamics", {**INPUTS, "seed": 1}, make, lines.append)
    assert other != first and len(calls) == 2
    meta = json.loads((first / "artifact.json").read_text())
    assert meta["inputs"] == INPUTS and list(meta["files"]) == ["arrays/data"]


def test_a_maker_that_fails_leaves_its_work_to_the_next_one(tmp_path: Path) -> None:
    calls, make = counting()

    def fail(folder: Path) -> None:
        (folder / "checkpoint").write_text("step 3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifact(tmp_path, "cost", INPUTS, fail, print)
    assert not (tmp_path / "cost" / digest(INPUTS)).exists()
    folder = artifact(tmp_path, "cost", INPUTS, make, print)
    assert (folder / "checkpoint").read_text() == "step 3"
    assert not calls[0].exists()


def test_a_kill_after_the_description_was_written_does_not_damage_the_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, make = counting()

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        artifact(tmp_path, "cost", INPUTS, make, print)
    assert list((tmp_path / "cost").glob("*.partial/artifact.json"))
    artifact(tmp_path, "cost", INPUTS, make, print)
    folder = artifact(tmp_path, "cost", INPUTS, make, print)
    meta = json.loads((folder / "artifact.json").read_text())
    assert list(meta["files"]) == ["arrays/data"]


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "meta", "meta list", "no files"])
def test_a_damaged_artifact_is_an_error_that_names_its_folder(tmp_path: Path, damage: str) -> None:
    calls, make = counting()
    folder = artifact(tmp_path, "policies", INPUTS, make, print)
    data, meta = folder / "arrays" / "data", folder / "artifact.json"
    if damage == "changed":
        data.write_bytes(b"mbde")
    elif damage == "removed":
        data.unlink()
    elif damage == "added":
        (folder / "more").write_text("")
    else:
        meta.write_text({"meta": "{", "meta list": "[]", "no files": '{"files": []}'}[damage])
    with pytest.raises(ArtifactError) as error:
        artifact(tmp_path, "policies", INPUTS, make, print)
    text = str(error.value)
    assert str(folder) in text and "remove that folder" in text and "\n" not in text
    assert len(calls) == 1
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    assert artifact(tmp_path, "policies", INPUTS, make, print) == folder
    assert len(calls) == 2 and data.read_text() == "made"


def test_of_two_makers_at_once_one_waits_and_takes_what_the_other_made(tmp_path: Path) -> None:
    calls, make = counting()
    lines: list[str] = []

    def slow(folder: Path) -> None:
        time.sleep(0.3)
        make(folder)

    def run() -> None:
        artifact(tmp_path, "labels", INPUTS, slow, lines.append)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(calls) == 1
    assert sum("waiting" in line for line in lines) == 2
