"""Standing laws of the house: imports point down, and the core needs no outside world."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "proco_jax"

# From the ground up. A room is a file or a folder; it imports from lower floors only.
FLOORS = (
    ("types", "observation", "statistics", "blocks", "config_types", "config_rules", "devices"),
    ("config", "losses", "networks", "scaling"),
    ("changes",),
    (
        "rollouts",
        "logged",
        "dynamics",
        "cost",
        "feasibility",
        "checkpoint",
        "envs",
        "command_line",
        "variants",
        "variations",
    ),
    ("algorithms", "data", "knowledge", "benchmark_mujoco", "buffer"),
    ("train", "evaluate", "report"),
    ("acting", "foresight"),
    ("foreseen",),
    ("diagnosis", "deploy", "run", "oracle"),
    ("fits", "counterfactuals"),
    ("learning",),
    ("artifacts",),
    ("pipeline",),
    ("main", "collect", "import_dsrl", "benchmark", "ladder", "ablations"),
)
# Commands that live in a room whose other files know nothing of them.
COMMANDS = ("knowledge.__main__", "knowledge.check", "report.__main__")

CORE = (
    "types",
    "devices",
    "changes",
    "observation",
    "config_types",
    "config_rules",
    "config",
    "scaling",
    "losses",
    "networks",
    "statistics",
    "blocks",
    "rollouts",
    "logged",
    "buffer",
    "dynamics",
    "cost",
    "feasibility",
    "algorithms",
    "train",
    "acting",
    "checkpoint",
)
OUTSIDE = (
    "gymnasium",
    "safety_gymnasium",
    "mujoco",
    "minari",
    "h5py",
    "litellm",
    "pydantic",
    "matplotlib",
    "imageio",
    "PIL",
    "pygame",
)
# Packages that only one room may name: the door to that outside world.
DOORS = {
    "minari": {"data"},
    "h5py": {"data"},
    "litellm": {"knowledge"},
    "pydantic": {"knowledge"},
    "matplotlib": {"report", "data"},
    "imageio": {"report"},
    "safety_gymnasium": {"envs"},
    "mujoco": {"envs", "benchmark_mujoco"},
    "orbax": {"checkpoint"},
}
MOST_LINES = 300
# Longer files, each with what it may have; none may grow, and no other may join.
LONG = {
    "config.py": 500,
    "train.py": 330,
}


def modules() -> dict[str, Path]:
    """Names below `proco_jax` and files; a package goes by its folder's name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]
    return found


def imports(path: Path, late: bool = True) -> Iterator[str]:
    """Everything a file imports as dotted names, also late, inside of functions."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path, late: bool = True) -> set[str]:
    """The modules of this package that a file imports."""
    known = modules()
    found = set()
    for name in imports(path, late):
        if name.split(".")[0] != "proco_jax":
            continue
        inner = name.split(".")[1:]
        # `from proco_jax.data.files import locked` names a module and a thing in it.
        found |= {".".join(inner[:n]) for n in range(1, len(inner) + 1)} & set(known)
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def room(module: str) -> str:
    return module.split(".")[0]


def floor(module: str) -> int:
    if module in COMMANDS:
        return len(FLOORS) - 1
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_the_table_of_floors_holds_every_room_once() -> None:
    listed = [name for rooms in FLOORS for name in rooms]
    assert sorted(listed) == sorted({room(module) for module in modules()})
    assert set(COMMANDS) <= set(modules())


def test_imports_point_down() -> None:
    upward = [
        f"{module} (floor {floor(module)}) imports {other} (floor {floor(other)})"
        for module, path in modules().items()
        for other in own_imports(path)
        if floor(other) >= floor(module) and (room(other) != room(module) or module in COMMANDS)
        if other not in COMMANDS or module not in COMMANDS
    ]
    assert upward == []


def test_no_file_imports_a_command() -> None:
    commands = {*FLOORS[-1], *COMMANDS}
    found = [m for m, path in modules().items() if own_imports(path) & (commands - {m})]
    assert [m for m in found if m not in commands] == []


def test_files_inside_a_room_import_each_other_in_one_direction() -> None:
    # A factory may import what it makes, late.
    below = {
        m: {o for o in own_imports(path, late=False) if room(o) == room(m)}
        for m, path in modules().items()
    }
    while free := {m for m, others in below.items() if not others}:
        below = {m: others - free for m, others in below.items() if m not in free}
    assert below == {}


def test_the_core_imports_the_core_alone() -> None:
    for module, path in modules().items():
        if room(module) in CORE:
            assert {room(other) for other in own_imports(path)} <= set(CORE), module
            assert not {name.split(".")[0] for name in imports(path)} & set(OUTSIDE), module


def test_each_outside_world_has_its_door() -> None:
    strangers = [
        f"{module} imports {name}"
        for module, path in modules().items()
        for name in imports(path)
        if room(module) not in DOORS.get(name.split(".")[0], {room(module)})
    ]
    assert strangers == []


def test_files_stay_short() -> None:
    lengths = {
        path.relative_to(SOURCE).as_posix(): len(path.read_text().splitlines())
        for path in modules().values()
    }
    assert {n: k for n, k in lengths.items() if k > LONG.get(n, MOST_LINES)} == {}
    assert {n for n in LONG if lengths.get(n, 0) <= MOST_LINES} == set(), "no longer long"


def test_no_text_names_a_machine_or_a_registry() -> None:
    # Put together here, so that this file passes its own test.
    words = ["/wo" + "rk/", "/tmp/ba" + "sh_jobs", "py" + "pi.org", "python" + "hosted.org"]
    words += ["registry.np" + "mjs", "proxy.go" + "lang", "crates." + "io"]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.suffix in (".png", ".gif", ".mp4", ".hdf5", ".npz") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{name}: {word}" for word in words if word in text]
    assert found == []


BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OUTSIDE!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, Blocked())
"""


def in_a_bare_process(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + program],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_the_core_is_imported_without_simulator_datasets_models_and_pictures() -> None:
    lines = [f"import proco_jax.{m}" for m in modules() if room(m) in CORE]
    assert in_a_bare_process("\n".join([*lines, "print('imported')"])) == "imported"
    with pytest.raises(AssertionError, match="mujoco is not installed here"):
        in_a_bare_process("import mujoco")


@pytest.mark.slow
def test_the_core_trains_without_simulator_datasets_models_and_pictures() -> None:
    program = """
import os
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, numpy as np
from core_toys import tiny_config, toy_context, toy_parts
from proco_jax import train

config = tiny_config()
config.train.steps = config.train.chunk = config.train.checkpoint_every = 2
parts = toy_parts(config)
context = toy_context(parts)
state = train.make_train_init(parts)(context, train.seed_keys(0, 2))
state, metrics = train.make_train_chunk(parts)(context, state)
assert all(np.isfinite(value).all() for value in metrics.values())
print(*np.asarray(state.step))
"""
    assert in_a_bare_process(program) == "2 2"
