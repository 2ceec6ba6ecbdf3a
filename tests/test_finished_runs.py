"""A finished run: what it needs to be gone on from, and which files it was made with."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proco_jax.config.schema import Config
from proco_jax.pipeline import stages
from proco_jax.pipeline.workdir import Run, open_run

ALGORITHM = "own_algorithm:make"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of an algorithm and knowledge of one's own; no stage is computed."""
    (tmp_path / "own_algorithm.py").write_text("def make(config, task): ...\n")
    (tmp_path / "robot.md").write_text("Stay away from walls.\n")
    monkeypatch.syspath_prepend(tmp_path)
    # That of another test.
    monkeypatch.delitem(sys.modules, ALGORITHM.partition(":")[0], raising=False)

    def make(run: Run, *rest: object) -> None:
        run.write_json("dynamics.json", {"made": True})

    monkeypatch.setattr(stages, "load_inputs", lambda run: (None, None))
    monkeypatch.setattr(stages, "_learn_and_evaluate", make)
    found = Config(algorithms=(ALGORITHM,))
    found.knowledge.file = str(tmp_path / "robot.md")
    return found


def opened(config: Config, tmp_path: Path, use: Callable[[Run], None]) -> None:
    with open_run(config, tmp_path / "run", log=lambda line: None) as run:
        use(run)


def test_only_a_finished_run_is_gone_on_from(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no finished run; python -m"):
        opened(config, tmp_path, stages.check_made)
    opened(config, tmp_path, stages.make_results)
    opened(config, tmp_path, stages.check_made)


def test_a_run_that_lacks_a_file_is_not_gone_on_from_until_it_is_made_anew(
    config: Config, tmp_path: Path
) -> None:
    opened(config, tmp_path, stages.make_results)
    (tmp_path / "run" / "dynamics.json").unlink()
    with pytest.raises(ValueError, match=r"found no dynamics\.json; python -m proco_jax\.main"):
        opened(config, tmp_path, stages.check_made)
    opened(config, tmp_path, stages.make_results)
    opened(config, tmp_path, stages.check_made)
    assert json.loads((tmp_path / "run" / "dynamics.json").read_text()) == {"made": True}


@pytest.mark.parametrize("name", ["own_algorithm.py", "robot.md"])
@pytest.mark.parametrize("use", [stages.check_made, stages.make_results])
def test_a_finished_run_is_not_mixed_with_another_version_of_ones_own_files(
    config: Config, tmp_path: Path, name: str, use: Callable[[Run], None]
) -> None:
    opened(config, tmp_path, stages.make_results)
    path = tmp_path / name
    original = path.read_text()
    path.write_text(original + "\n# Another version.\n")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json")}
    with pytest.raises(ValueError, match=r"has changed since the run in .* was made with it"):
        opened(config, tmp_path, use)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json")} == before
    path.write_text(original)
    opened(config, tmp_path, use)
