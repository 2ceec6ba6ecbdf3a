"""The folder of a run: one config, atomic writes, and the seconds of its stages."""

import json
import time
from pathlib import Path

import pytest

from proco_jax.config.schema import Config, to_json
from proco_jax.pipeline import workdir as workdirs
from proco_jax.pipeline.workdir import ConfigMismatchError, open_run


@pytest.fixture
def lines() -> list[str]:
    return []


def test_a_new_run_leaves_its_config_and_nothing_temporary(
    tmp_path: Path, lines: list[str]
) -> None:
    workdir = tmp_path / "deep" / "run"
    with open_run(Config(), workdir, log=lines.append) as run:
        assert run.workdir == workdir
    assert (workdir / "config.json").read_text() == to_json(Config())
    assert sorted(p.name for p in workdir.iterdir()) == [".lock", "config.json"]
    assert lines == []


def test_a_failed_write_of_the_config_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", torn)
    with pytest.raises(OSError, match="no space"), open_run(Config(), tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_config_that_cannot_be_run_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds"), open_run(Config(seeds=0), tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_the_same_config_resumes_with_what_is_there(tmp_path: Path) -> None:
    with open_run(Config(), tmp_path) as run:
        run.write_json("dynamics.json", {"r2": 0.5})
    with open_run(Config(), tmp_path) as run:
        assert run.read_json("dynamics.json") == {"r2": 0.5}
        assert run.read_json("cost.json") is None


def test_another_config_is_refused_with_the_differences(tmp_path: Path) -> None:
    with open_run(Config(), tmp_path):
        pass
    other = Config(seeds=7)
    other.train.steps = 500
    with pytest.raises(ConfigMismatchError) as error, open_run(other, tmp_path):
        pass
    text = str(error.value)
    assert f"seeds: {Config().seeds} -> 7" in text
    assert f"train.steps: {Config().train.steps} -> 500" in text
    assert "--workdir" in text and str(tmp_path) in text
    assert (tmp_path / "config.json").read_text() == to_json(Config())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff", b"[" * 100_000])
def test_a_damaged_config_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with (
        pytest.raises(ValueError, match=r"config\.json is damaged .*; if the folder .* remove"),
        open_run(Config(), tmp_path),
    ):
        pass


def test_a_config_written_while_waiting_for_the_lock_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = workdirs.locked

    def late(path: Path, *rest: object):
        (tmp_path / "config.json").write_text(to_json(Config(seeds=7)))
        return locked(path, *rest)  # pyright: ignore

    monkeypatch.setattr(workdirs, "locked", late)
    with pytest.raises(ConfigMismatchError, match="seeds: 7"), open_run(Config(), tmp_path):
        pass


def test_a_run_that_failed_before_it_wrote_anything_does_not_fix_the_config(tmp_path: Path) -> None:
    def fail(workdir: Path, name: str = "") -> None:
        with pytest.raises(ValueError, match="no data"), open_run(Config(), workdir) as run:
            if name:
                run.write_json(name, {})
            with run.stage("data", "Data"):
                raise ValueError("no data")

    fail(tmp_path / "early")
    with open_run(Config(seeds=7), tmp_path / "early"):
        pass
    fail(tmp_path / "late", "dataset.json")
    with pytest.raises(ConfigMismatchError), open_run(Config(seeds=7), tmp_path / "late"):
        pass


def test_files_of_a_run_are_strict_json(tmp_path: Path) -> None:
    with open_run(Config(), tmp_path) as run:
        with pytest.raises(ValueError, match="JSON"):
            run.write_json("cost.json", {"recall": float("nan")})
        assert run.read_json("cost.json") is None


def test_a_stage_has_a_heading_and_its_seconds_add_up_over_resumes(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 112.5, 200.0, 207.25, 300.0, 301.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with open_run(Config(), tmp_path, log=lines.append) as run, run.stage("cost", "Cost"):
        lines.append("inside")
    assert lines == ["\n== Cost", "inside", "   cost: 12 s"]
    with (
        pytest.raises(KeyboardInterrupt),
        open_run(Config(), tmp_path, log=lines.append) as run,
        run.stage("cost", "Cost"),
    ):
        raise KeyboardInterrupt
    with open_run(Config(), tmp_path, log=lines.append) as run, run.stage("train/proco", "Train"):
        pass
    timing = json.loads((tmp_path / "timing.json").read_text())
    assert timing == {"cost": pytest.approx(19.75, abs=0.11), "train/proco": 1.0}
