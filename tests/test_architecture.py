"""Laws of the tree: folders form a DAG, and the training core needs no outside packages."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "proco_jax"

# Folders and modules of the package that training, deployment and `load_policy` are made of:
# they run where neither a simulator nor data formats, language models or plots are installed.
CORE = (
    "types",
    "observation",
    "config",
    "rules",
    "common",
    "models",
    "augmentation",
    "algorithms",
    "training",
    "deployment",
)
OUTSIDE = (
    "gymnasium",
    "safety_gymnasium",
    "mujoco",
    "minari",
    "h5py",
    "huggingface_hub",
    "litellm",
    "pydantic",
    "matplotlib",
    "imageio",
    "PIL",
    "pygame",
    "pyarrow",
)
# Packages that only one folder may import: each hides one outside dependency.
OWNERS = {
    "minari": {"data"},
    "h5py": {"data"},
    "huggingface_hub": {"data"},
    "litellm": {"knowledge"},
    "pydantic": {"knowledge"},
    "pyarrow": {"data", "sweeps"},
    "matplotlib": {"report"},
    "imageio": {"report"},
    "safety_gymnasium": {"envs"},
    "mujoco": {"envs"},
    "orbax": {"common"},
    "obstore": {"common"},
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


def folder(module: str) -> str:
    """The folder of a module, or the module itself at the top level of the package.

    `__main__` modules are commands: entry points that nothing imports.
    """
    return module if module.endswith("__main__") else module.split(".")[0]


def folder_imports() -> dict[str, set[str]]:
    """For each folder, the other folders that its files import, also inside of functions."""
    below: dict[str, set[str]] = {}
    for module, path in modules().items():
        others = {folder(other) for other in own_imports(path)}
        below.setdefault(folder(module), set()).update(others - {folder(module)})
    return below


def without_sources(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left of a graph when everything without imports is removed, again and again."""
    while free := {name for name, others in graph.items() if not others}:
        graph = {name: others - free for name, others in graph.items() if name not in free}
    return graph


def test_folders_form_a_directed_acyclic_graph() -> None:
    assert without_sources(folder_imports()) == {}


def test_files_of_a_folder_form_a_directed_acyclic_graph() -> None:
    # A factory may import what it makes inside of its function.
    graph = {
        m: {o for o in own_imports(path, late=False) if folder(o) == folder(m)}
        for m, path in modules().items()
    }
    assert without_sources(graph) == {}


def test_a_cycle_would_be_found() -> None:
    assert without_sources({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) != {}


def test_no_file_imports_a_command() -> None:
    commands = {m for m in modules() if m.endswith("__main__")}
    commands |= {
        m for m, path in modules().items() if 'if __name__ == "__main__"' in path.read_text()
    }
    found = {m: own_imports(path) & (commands - {m}) for m, path in modules().items()}
    assert {m: c for m, c in found.items() if c and m not in commands} == {}


def test_the_core_imports_the_core_alone() -> None:
    for module, path in modules().items():
        if folder(module) in CORE:
            assert {folder(other) for other in own_imports(path)} <= set(CORE), module
            assert not {name.split(".")[0] for name in imports(path)} & set(OUTSIDE), module


def test_each_outside_package_is_imported_by_one_folder() -> None:
    strangers = [
        f"{module} imports {name}"
        for module, path in modules().items()
        for name in imports(path)
        if folder(module) not in OWNERS.get(name.split(".")[0], {folder(module)})
    ]
    assert strangers == []


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
    lines = [f"import proco_jax.{m}" for m in modules() if folder(m) in CORE]
    assert in_a_bare_process("\n".join([*lines, "print('imported')"])) == "imported"
    with pytest.raises(AssertionError, match="mujoco is not installed here"):
        in_a_bare_process("import mujoco")


@pytest.mark.slow
def test_the_core_trains_without_simulator_datasets_models_and_pictures() -> None:
    program = """
import os
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, numpy as np
from core_toys import tiny_config, toy_context, toy_keys, toy_program
from proco_jax.training import loop

config = tiny_config()
config.train.steps = config.train.chunk = config.train.checkpoint_every = 2
program = toy_program(config=config)
context, hyper = toy_context(config), loop.make_hyper(program, 2)
training = loop.make_training(program)
state = training.warm_up(context, hyper, training.init(context, hyper, toy_keys()))
state, metrics = training.chunk(context, hyper, state)
assert all(np.isfinite(value).all() for value in metrics.values())
print(*np.asarray(state.step))
"""
    assert in_a_bare_process(program) == "2 2"
