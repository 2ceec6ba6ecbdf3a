"""Environments of the user's own: any Gymnasium environment with one Box of observations."""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.shipped import find_shipped
from proco_jax.envs.tasks import Task
from proco_jax.envs.vector import StepResult, check_actions, check_reset


@dataclasses.dataclass(frozen=True)
class OwnEnv:
    """An environment of the user's own, and how it is judged.

    Attributes:
      make: makes one environment with Gymnasium's API, seeded by `reset(seed=...)`.
      unscale: actions `[..., A]` in [-1, 1] to the environment's units.
      judge: raw observations `[..., O]` to whether they are unsafe, `[...]`; None where only the
        environment's `info["cost"]` tells.
      reward: raw observations `[..., O]` of the states that steps lead to, to rewards `[...]`; None
        for the environment's own.
    """

    make: Callable[[], Any]
    unscale: Callable[[np.ndarray], np.ndarray]
    judge: Callable[[np.ndarray], np.ndarray] | None = None
    reward: Callable[[np.ndarray], np.ndarray] | None = None


def find_maker(name: str) -> Callable[[], Any]:
    """The function that makes an environment.

    Args:
      name: `file.py:function`, `module:function`, or the id of a Gymnasium environment.

    Raises:
      ValueError: if there is no such thing.
    """
    where, _, function = name.rpartition(":")
    if not where or not function.isidentifier():
        return _gymnasium_maker(name)
    _import_gymnasium()
    try:
        module = _module_of_file(where) if where.endswith(".py") else importlib.import_module(where)
    except (ImportError, OSError) as error:
        raise ValueError(f"--config.system.env: found {name!r}: {error}") from error
    make = getattr(module, function, None)
    if not callable(make):
        raise ValueError(f"--config.system.env: {where} has no function {function!r}")
    return make


class OwnWorlds:
    """Environments of the user's own as the worlds of `envs.vector.VectorEnv`, stepped in turn.

    The cost of a step is `info["cost"]`, or else 1 in a state that the judge calls unsafe.
    Episodes end at the latest after the task's number of steps.
    """

    def __init__(self, task: Task, own: OwnEnv, num_envs: int) -> None:
        """Makes the environments.

        Raises:
          ValueError: if their spaces are not the described ones.
        """
        self.task, self.num_envs, self.physics_failures = task, num_envs, 0
        self._own = own
        self._envs = [own.make() for _ in range(num_envs)]
        _check_spaces(self._envs[0], task)
        self._obs = np.zeros((num_envs, task.spec.size), np.float32)
        self._steps = np.zeros(num_envs, int)
        self._over = np.ones(num_envs, bool)

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> np.ndarray:
        """First observations of the episodes of these seeds, see `VectorEnv`."""
        chosen = check_reset(seeds, worlds, self.num_envs)
        for seed, world in zip(seeds, chosen, strict=True):
            found = self._envs[world].reset(seed=int(seed))
            self._obs[world] = self._checked(found[0] if isinstance(found, tuple) else found)
            self._steps[world], self._over[world] = 0, False
        return self._obs[chosen].copy()

    def prepare(self, seeds: Sequence[int]) -> None:
        """Nothing to prepare."""

    def step(self, actions: np.ndarray) -> StepResult:
        """Steps every world whose episode is not over, see `VectorEnv`."""
        actions = check_actions(actions, self.num_envs, self.task.action_size)
        physical = self._own.unscale(np.clip(actions, -1.0, 1.0))
        reward, cost = np.zeros((2, self.num_envs), np.float32)
        terminated, truncated = np.zeros(self.num_envs, bool), self._over.copy()
        running, unjudged = ~self._over, np.zeros(self.num_envs, bool)
        for world in np.flatnonzero(running):
            env = self._envs[world]
            action = physical[world].astype(getattr(env.action_space, "dtype", np.float32))
            obs, gained, ended, cut, info = env.step(action)
            self._obs[world] = self._checked(obs)
            self._steps[world] += 1
            reward[world] = gained
            unjudged[world] = "cost" not in info
            cost[world] = info.get("cost", 0.0)
            terminated[world] = ended
            truncated[world] = not ended and (cut or self._steps[world] >= self.task.episode_steps)
            self._over[world] = ended or truncated[world]
        if unjudged.any():
            cost[unjudged] = self._judged()[unjudged]
        if self._own.reward is not None:
            reward[running] = self._own.reward(self._obs)[running]
        return StepResult(self._obs.copy(), reward, cost, terminated, truncated)

    def close(self) -> None:
        """Closes the environments."""
        for env in self._envs:
            env.close()
        self._envs = []

    def _judged(self) -> np.ndarray:
        """Whether the judge calls the states of all worlds unsafe, `[num_envs]`."""
        if self._own.judge is None:
            raise ValueError(
                "--config.system.env: the environment's info has no 'cost', and the description "
                "has no rule to judge its states by; add either"
            )
        return self._own.judge(self._obs)

    def _checked(self, obs: Any) -> np.ndarray:
        array = np.asarray(obs, np.float32)
        if array.shape != (self.task.spec.size,) or not np.isfinite(array).all():
            raise ValueError(
                f"--config.system.env: found an observation of shape {array.shape}: {array}, "
                f"expected {self.task.spec.size} finite numbers as described"
            )
        return array


def _gymnasium_maker(name: str) -> Callable[[], Any]:
    gymnasium = _import_gymnasium()
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ValueError(
            f"--config.system.env: {error}; give the id of an installed Gymnasium environment, or "
            "module:function or file.py:function of a function that makes one"
        ) from error
    return lambda: gymnasium.make(name, disable_env_checker=True)


def _import_gymnasium() -> Any:
    """Gymnasium, without what its plugins print when they are loaded."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        return importlib.import_module("gymnasium")


def _module_of_file(path: str) -> Any:
    found = find_shipped(path)
    if not Path(found).is_file():
        raise OSError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"own_environment_{found.stem}", found)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_spaces(env: Any, task: Task) -> None:
    expected = {"observation_space": task.spec.size, "action_space": task.action_size}
    for name, size in expected.items():
        shape = getattr(getattr(env, name, None), "shape", None)
        if shape != (size,):
            raise ValueError(
                f"--config.system.env: its {name} has the shape {shape}, expected a Box of "
                f"({size},) as described; flatten it with gymnasium.wrappers.FlattenObservation, "
                "or correct the description"
            )
