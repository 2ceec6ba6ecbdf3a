"""The exact versions stand in two places; they must agree, and name no address."""

import re
import tomllib
from pathlib import Path

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
