"""Pinned versions agree in both places that hold them; the wheel runs without the source tree."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*==[^\s;\\]+)\s*(?:;\s*([^\\]*?))?\s*\\?$")


def constraints() -> set[str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {normal(line) for line in pyproject["tool"]["uv"]["constraint-dependencies"]}


def locked() -> dict[str, int]:
    """Pins of requirements.lock and how many hashes follow each."""
    hashes: dict[str, int] = {}
    current = ""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if PIN.match(line):
            current = normal(line.rstrip("\\"))
            hashes[current] = 0
        elif line.strip().startswith("--hash="):
            hashes[current] += 1
    return hashes


def normal(pin: str) -> str:
    return re.sub(r"\s+", "", pin)


def test_constraints_and_lock_pin_the_same_versions():
    assert constraints() == set(locked())
    assert len(constraints()) > 50


def test_every_locked_package_has_a_hash():
    assert [pin for pin, count in locked().items() if count == 0] == []


def test_neither_place_holds_an_address():
    for name in ("pyproject.toml", "requirements.lock"):
        assert "://" not in (ROOT / name).read_text()


def test_backdoored_litellm_releases_stay_excluded():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    line = next(d for d in dependencies if d.startswith("litellm"))
    assert "!=1.82.7" in line and "!=1.82.8" in line


@pytest.fixture(scope="module")
def unzipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built wheel, unzipped into a folder of its own."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [uv, "build", "--wheel", "--out-dir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("hatchling, which builds the wheel, cannot be installed here")
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_outside(site: Path, cwd: Path, *arguments: str) -> str:
    """Runs Python on the unzipped wheel in another folder, and returns its output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_brings_experiments_and_knowledge_of_all_tasks(unzipped, tmp_path):
    program = """
import proco_jax
from proco_jax.envs.tasks import TASKS
from proco_jax.knowledge.files import load_knowledge
from proco_jax.knowledge.recorded import recorded_replies
print(proco_jax.__file__)
known = [load_knowledge(name) for name in TASKS]
print(sum(knowledge.rule is not None for knowledge in known))
print(sum(len(recorded_replies(knowledge).replies) for knowledge in known))
"""
    place, rules, replies = run_outside(unzipped, tmp_path, "-c", program).split()
    assert Path(place).is_relative_to(unzipped) and (rules, replies) == ("21", "63")


@pytest.mark.slow
def test_a_wheel_built_from_the_source_distribution_is_the_same(unzipped, tmp_path):
    uv = shutil.which("uv")
    assert uv is not None  # or there were no wheel above
    command = [uv, "build", "--out-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    expected = {str(path.relative_to(unzipped)) for path in unzipped.rglob("*") if path.is_file()}
    assert names == {name for name in expected if "__pycache__" not in name}
    assert "proco_jax/experiments/car_button.py" in names
    own = {path.name for path in (ROOT / "experiments" / "own_system").glob("*.*")}
    assert {"tank.py", "tank.md", "tank_env.py", "tank_logs.csv"} <= own
    assert {f"proco_jax/experiments/own_system/{name}" for name in own} <= names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["car_button", "experiments/car_button.py:quick"])
def test_the_wheel_runs_a_shipped_experiment_from_any_folder(unzipped, tmp_path, name):
    command = ("-m", "proco_jax.knowledge", f"--config={name}", "--show_prompts")
    assert "hazards_lidar" in run_outside(unzipped, tmp_path, *command)


@pytest.mark.slow
def test_the_wheel_runs_an_experiment_of_the_users_own(unzipped, tmp_path):
    source = (ROOT / "experiments" / "point_goal.py").read_text()
    (tmp_path / "mine.py").write_text(source.replace('"point_goal"', '"mine"'))
    command = ("-m", "proco_jax.knowledge", "--config=mine.py:quick", "--show_prompts")
    assert "hazards_lidar" in run_outside(unzipped, tmp_path, *command)
