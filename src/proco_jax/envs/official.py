"""The official environments in worker processes: the reference backend.

Each worker builds its share of the worlds and steps them one after another.
All computations of a world are Safety-Gymnasium's own; this module waits,
checks and counts.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from proco_jax.envs.simulator import import_mujoco, make_official
from proco_jax.envs.tasks import Task
from proco_jax.envs.vector import StepResult, check_actions, check_reset

_TIMEOUT_S = 600.0


class OfficialEnv:
    """N official environments in worker processes; a `VectorEnv`.

    Args:
      task: the task.
      num_envs: N.
      workers: processes; world i lives in process `i % workers`.

    Raises:
      RuntimeError: from any call, if a worker died or raised.
    """

    def __init__(self, task: Task, num_envs: int, workers: int = 1) -> None:
        self.task = task
        self.num_envs = num_envs
        self.physics_failures = 0
        self._workers: list[_Worker] = []
        self._obs = np.zeros((num_envs, task.spec.size), np.float32)
        self._running = np.zeros(num_envs, bool)
        count = max(1, min(workers, num_envs))
        self._worlds = [np.arange(k, num_envs, count) for k in range(count)]
        try:
            self._workers.extend(_Worker() for _ in self._worlds)
        except BaseException:
            self.close()
            raise
        self._exchange({k: (task, len(worlds)) for k, worlds in enumerate(self._worlds)})

    def reset(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> np.ndarray:
        """Starts the episodes of these seeds; see `VectorEnv`.

        Raises:
          ValueError: if seeds and worlds do not match or are out of range.
        """
        self._check_open()
        chosen = check_reset(seeds, worlds, self.num_envs)
        self._running[chosen] = False
        seed_of = dict(zip(chosen.tolist(), seeds, strict=True))
        asked = {}
        for k, own in enumerate(self._worlds):
            local = {i: int(seed_of[world]) for i, world in enumerate(own) if world in seed_of}
            if local:
                asked[k] = ("reset", local)
        for k, obs in self._exchange(asked).items():
            self._obs[self._worlds[k][list(asked[k][1])]] = obs
        self._running[chosen] = True
        return self._obs[chosen]

    def step(self, actions: np.ndarray) -> StepResult:
        """Steps every world whose episode is not over; see `VectorEnv`."""
        self._check_open()
        actions = check_actions(actions, self.num_envs, self.task.action_size)
        reward = np.zeros(self.num_envs, np.float32)
        cost = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, bool)
        truncated = ~self._running
        asked = {}
        for k, own in enumerate(self._worlds):
            local = np.flatnonzero(self._running[own])
            if len(local):
                asked[k] = ("step", (local, actions[own[local]]))
        for k, (result, failed) in self._exchange(asked).items():
            own = self._worlds[k][asked[k][1][0]]
            obs, reward[own], cost[own], terminated[own], truncated[own] = result
            self._obs[own[~failed]] = obs[~failed]
            self.physics_failures += int(failed.sum())
        self._running &= ~(terminated | truncated)
        return StepResult(self._obs.copy(), reward, cost, terminated, truncated)

    def prepare(self, seeds: Sequence[int]) -> None:
        """Does nothing: the official environment builds its world at the reset."""

    def close(self) -> None:
        """Ends the worker processes; may be called twice."""
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.wait()
        self._workers = []

    def __enter__(self) -> "OfficialEnv":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, messages: dict[int, Any]) -> dict[int, Any]:
        """Sends messages to workers by index, all at once, and collects their replies.

        After an error, replies would no longer match messages, so all workers end.
        """
        try:
            for k, message in messages.items():
                self._workers[k].send(message)
            return {k: self._workers[k].receive() for k in messages}
        except BaseException:
            self.close()
            raise

    def _check_open(self) -> None:
        if not self._workers:
            raise RuntimeError("the environment is closed; make a new one")


class _Worker:
    """One process and the pipe to it.

    A plain interpreter instead of `multiprocessing.Process`, which would import
    the caller's main module, and JAX with it, into every worker.
    """

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        handle = theirs.fileno()
        code = f"from proco_jax.envs import official; official.serve({handle})"
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[handle],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **one_thread},
        )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._died() from error

    def receive(self) -> Any:
        """The reply to the last message.

        Raises:
          RuntimeError: if the worker raised, died, or took too long.
        """
        try:
            if not self._pipe.poll(_TIMEOUT_S):
                raise RuntimeError(
                    f"a simulator process (pid {self.pid}) did not reply within {_TIMEOUT_S:.0f} s"
                )
            status, data = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if status == "error":
            raise RuntimeError(f"a simulator process (pid {self.pid}) failed:\n{data}")
        return data

    def hang_up(self) -> None:
        """Closes the pipe, whereupon the process ends."""
        self._pipe.close()

    def wait(self) -> None:
        try:
            self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _died(self) -> RuntimeError:
        self.wait()
        return RuntimeError(
            f"a simulator process (pid {self.pid}) died with exit code "
            f"{self._process.returncode} (negative: killed by that signal; -9 is often the system "
            "running out of memory); run again, with fewer workers if memory is short"
        )


def serve(handle: int) -> None:
    """Serves as a worker process until the parent closes the pipe or ends.

    Args:
      handle: file descriptor of its end of the pipe. The first message is
        `(task, worlds)`, every other one `("reset" or "step", data)`.
    """
    # The parent handles an interrupt, and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(handle)
    try:
        task, worlds = pipe.recv()
        _silence_mujoco_log()
        envs = [make_official(task) for _ in range(worlds)]
        # A Car's first episode differs from later ones by rounding. After one reset,
        # episodes depend on their seeds only.
        _reset(envs, dict.fromkeys(range(worlds), 0))
        pipe.send(("ok", None))
        while True:
            command, data = pipe.recv()
            pipe.send(("ok", _reset(envs, data) if command == "reset" else _step(envs, *data)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except BaseException:
        pipe.send(("error", traceback.format_exc()))


def step_official(env: Any, action: np.ndarray) -> tuple[Any, float, float, bool, bool, bool]:
    """One step of an official environment that detects unstable physics.

    After a warning, the simulator resets the state silently and continues; on NaN
    it raises various errors.

    Returns:
      obs, reward, cost, terminated, truncated, and whether the physics failed;
      in that case obs is None, reward and cost are 0, and the episode is over.
    """
    failure = (None, 0.0, 0.0, True, False, True)
    try:
        obs, reward, terminated, truncated, info = env.step(action)
    except (AssertionError, ValueError, UnboundLocalError):
        if _physics_failed(env):
            return failure
        raise
    if _physics_failed(env) or not np.isfinite(obs).all() or not np.isfinite(reward):
        return failure
    return obs, float(reward), float(info["cost"]), bool(terminated), bool(truncated), False


def _physics_failed(env: Any) -> bool:
    inner = env.unwrapped
    data = inner.task.data if hasattr(inner, "task") else inner.data
    return bool(data.warning.number.any()) or not np.isfinite(data.qpos).all()


def _reset(envs: list[Any], seeds: dict[int, int]) -> np.ndarray:
    return np.stack([envs[i].reset(seed=seed)[0] for i, seed in seeds.items()])


def _step(envs: list[Any], worlds: np.ndarray, actions: np.ndarray) -> tuple[Any, np.ndarray]:
    rows = [step_official(envs[i], action) for i, action in zip(worlds, actions, strict=True)]
    obs, *results, failed = zip(*rows, strict=True)
    size = envs[0].observation_space.shape
    stacked = np.stack([np.zeros(size) if o is None else o for o in obs])
    return (stacked, *results), np.array(failed)


def _silence_mujoco_log() -> None:
    """Prevents MuJoCo from writing MUJOCO_LOG.TXT; its warnings are counted instead."""
    import_mujoco().set_mju_user_warning(lambda message: None)
