"""Imports safety-gymnasium 1.0.0 on Python 3.11 without output, and makes its environments.

`import safety_gymnasium` has two problems. Its dataclasses have NumPy arrays as
defaults, which Python 3.11 rejects as mutable; and it imports
`gymnasium_robotics` for multi-agent tasks, which are not used here and print
warnings. Both are patched for the duration of the import only.

Two patches speed up resets. Every reset compiles the world again, which mostly
decodes six pictures of a starry sky (1.5 s and 75 MB per world; 20 ms without):
a plain sky replaces them, and does not affect trajectories. Crowded layouts are
found by trying thousands of placements, each checked with NumPy on two numbers
(0.3 s in Button2): here the same draws are checked with plain floats, with
bit-identical results.
"""

import contextlib
import copy
import dataclasses
import functools
import importlib.metadata
import importlib.util
import math
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from proco_jax.envs.tasks import Task

_ROBOTICS = (
    "gymnasium_robotics",
    "gymnasium_robotics.__init__",
    "gymnasium_robotics.envs",
    "gymnasium_robotics.envs.multiagent_mujoco",
    "gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi",
)


class _HashableArray(np.ndarray):
    """An array that `dataclasses` accepts as a default."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def make_official(task: Task, **kwargs: Any) -> Any:
    """The official Gymnasium environment of a task, in this process.

    Args:
      task: from `proco_jax.envs.tasks`.
      **kwargs: for `gymnasium.make`, e.g. `render_mode="rgb_array"`.

    Returns:
      An environment whose `step` returns `(obs, reward, terminated, truncated,
      info)` with the cost in `info["cost"]`.

    Raises:
      ImportError: if the simulator is not installed.
    """
    import_safety_gymnasium()
    import gymnasium

    with warnings.catch_warnings():
        # Car tasks make integers of arrays of one element. Where warnings are
        # errors, MuJoCo would report that as a wrong type.
        warnings.filterwarnings("ignore", "Conversion of an array", DeprecationWarning)
        # The checker only prints advice to authors of environments.
        return gymnasium.make(task.env_id, disable_env_checker=True, **kwargs)


def import_safety_gymnasium() -> types.ModuleType:
    """Imports `safety_gymnasium`, patched and without output on the terminal.

    Raises:
      ImportError: if the simulator is not installed, with the remedy.
    """
    if "safety_gymnasium" in sys.modules:
        return sys.modules["safety_gymnasium"]
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import_mujoco()
        with _robotics_stubbed(), _array_defaults_allowed():
            import safety_gymnasium
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the simulator needs the package {error.name!r}, which is not installed; "
            "on Python 3.11, run `uv sync` (safety-gymnasium 1.0.0 has no build for 3.12)"
        ) from error
    from safety_gymnasium import world
    from safety_gymnasium.utils.random_generator import RandomGenerator

    RandomGenerator.sample_layout = _sample_layout
    world.yaml = types.SimpleNamespace(load=_load_assets, FullLoader=world.yaml.FullLoader)
    return safety_gymnasium


def import_mujoco() -> types.ModuleType:
    """Imports MuJoCo, whatever `MUJOCO_GL` holds.

    MuJoCo loads the OpenGL library of that variable when it is imported, and
    fails if there is none. The simulator renders nothing, so the import is then
    repeated without OpenGL. The environment variables stay as they are.

    Raises:
      ImportError: if MuJoCo is not installed.
    """
    names = ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    before = {name: os.environ[name] for name in names if name in os.environ}
    try:
        import mujoco
    except Exception:
        if importlib.util.find_spec("mujoco") is None:
            raise
        os.environ["MUJOCO_GL"] = "disable"
        try:
            import mujoco
        finally:
            for name in names:
                os.environ.pop(name, None)
            os.environ.update(before)
    return mujoco


def simulator_versions() -> dict[str, str]:
    """Versions of the packages that determine a trajectory, for every result row."""
    names = ("safety-gymnasium", "gymnasium", "mujoco", "numpy")
    return {name: importlib.metadata.version(name) for name in names}


def _load_assets(file: Any, Loader: Any) -> dict[str, Any]:
    """Stands in for `yaml.load`: the textures and meshes of a world, with a plain sky."""
    return copy.deepcopy(_parse_assets(file.name, Loader))


@functools.cache
def _parse_assets(path: str, loader: Any) -> dict[str, Any]:
    import yaml

    with open(path, encoding="utf-8") as file:
        assets = yaml.load(file, Loader=loader)
    assets["textures"]["skybox"] = {
        "@type": "skybox",
        "@builtin": "gradient",
        "@rgb1": ".9 .95 1",
        "@rgb2": ".6 .7 .8",
        "@width": "64",
        "@height": "64",
    }
    return assets


def _sample_layout(self: Any) -> bool:
    """Stands in for `RandomGenerator.sample_layout`: same draws, same decisions."""
    layout: dict[str, np.ndarray] = {}
    taken: list[tuple[float, float, float]] = []
    for name, (placements, keepout) in self.placements.items():
        for _ in range(100):
            xy = self.draw_placement(placements, keepout)
            if _is_free(float(xy[0]), float(xy[1]), keepout, taken):
                break
        else:
            return False
        layout[name] = xy
        taken.append((float(xy[0]), float(xy[1]), keepout + self.placements_margin))
    self.layout = layout
    return True


def _is_free(x: float, y: float, keepout: float, taken: list[tuple[float, float, float]]) -> bool:
    for other_x, other_y, margin in taken:
        dx, dy = x - other_x, y - other_y
        if math.sqrt(dx * dx + dy * dy) < margin + keepout:
            return False
    return True


@contextlib.contextmanager
def _array_defaults_allowed() -> Iterator[None]:
    original: Callable[..., Any] = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **kwargs: Any) -> Any:
        if cls is None:
            return lambda decorated: dataclass(decorated, **kwargs)
        for name, default in list(vars(cls).items()):
            if isinstance(default, np.ndarray):
                setattr(cls, name, default.view(_HashableArray))
        return original(cls, **kwargs)

    dataclasses.dataclass = dataclass  # type: ignore[assignment]
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextlib.contextmanager
def _robotics_stubbed() -> Iterator[None]:
    """Stands in for the parts of `gymnasium_robotics` that are not loaded yet."""
    stubs = {name: types.ModuleType(name) for name in _ROBOTICS if name not in sys.modules}
    for name, stub in stubs.items():
        stub.__dict__.update(
            __path__=[], register_robotics_envs=lambda: None, MultiAgentMujocoEnv=object
        )
        sys.modules[name] = stub
    try:
        yield
    finally:
        for name, stub in stubs.items():
            if sys.modules.get(name) is stub:
                del sys.modules[name]
