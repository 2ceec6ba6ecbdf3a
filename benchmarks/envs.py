"""Speed of the official environment, batched worlds, and bare MuJoCo.

    python -m benchmarks.envs envs --out=envs.json
    python -m benchmarks.envs envs --tasks=PointGoal1,CarButton1 --threads=1,2
    python -m benchmarks.envs memory --tasks=CarButton2 --worlds=64
    python -m benchmarks.envs mujoco --tasks=PointGoal1,CarButton1 --steps=300

`envs` alternates in short turns, so that other load on the machine slows all
three equally: one step of the official environment in this process, one of N
batched worlds, one of the same N worlds as bare `mj_step` with the same actions
on as many threads. Resets are counted at their true rate, one an episode, for
the official environment and the batched worlds; bare MuJoCo has none. `memory`
measures the memory of N worlds, `mujoco` possible savings within MuJoCo.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.bare_mujoco import BareWorlds
from benchmarks.mujoco import compare, format_variants
from proco_jax.config.schema import CollectConfig
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.controllers import ControllerMixture
from proco_jax.envs.simulator import make_official, simulator_versions
from proco_jax.envs.tasks import TASKS, Task, get_task
from proco_jax.envs.vector import available_cores

TASK_NAMES = flags.DEFINE_list("tasks", list(TASKS), "tasks to measure")
THREADS = flags.DEFINE_list("threads", ["1", "2"], "numbers of threads")
WORLDS = flags.DEFINE_integer("worlds", 32, "worlds in a batch", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 100, "steps of each world", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "JSON file for the rows")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the benchmark; rates are environment steps a second."""

    task: str
    threads: int
    worlds: int
    official_steps_per_s: float
    batched_steps_per_s: float
    ratio: float
    bare_steps_per_s: float
    share_of_bare: float
    official_reset_ms: float
    batched_reset_ms: float
    resets_included: bool


def main(argv: list[str]) -> None:
    """Runs one of the commands.

    Raises:
      ValueError: on an unknown command or task.
    """
    commands: dict[str, Callable[[], None]] = {
        "envs": measure_envs,
        "memory": measure_memory,
        "mujoco": measure_mujoco,
    }
    if len(argv) != 2 or argv[1] not in commands:
        raise ValueError(f"expected one command of {', '.join(commands)}, found {argv[1:]}")
    commands[argv[1]]()


def measure_envs() -> None:
    """Prints a row for each task and number of threads; writes them to `--out`."""
    tasks = [get_task(name) for name in TASK_NAMES.value]
    threads = [int(number) for number in THREADS.value]
    machine = {"cores": available_cores(), "load": os.getloadavg()[0], **simulator_versions()}
    print(f"{machine}\n{_HEADER}")
    rows = []
    for task in tasks:
        actions = record_actions(task, WORLDS.value, STEPS.value)
        for number in threads:
            rows.append(measure(task, number, actions))
            print(format_row(rows[-1]), flush=True)
            if OUT.value:
                text = {"machine": machine, "rows": [dataclasses.asdict(row) for row in rows]}
                _write(OUT.value, json.dumps(text, indent=1) + "\n")


def measure_memory() -> None:
    """Prints how much memory N worlds of each task take once they have stepped."""
    for task in [get_task(name) for name in TASK_NAMES.value]:
        BatchedEnv(task, 1, 1).close()
        before = _resident_mib()
        with BatchedEnv(task, WORLDS.value) as env:
            env.reset(range(WORLDS.value))
            for _ in range(20):
                env.step(np.ones((WORLDS.value, task.action_size), np.float32))
            used, whole = _resident_mib() - before, _resident_mib()
        print(
            f"{task.name}: {WORLDS.value} worlds take {used:.0f} MiB, the process {whole:.0f} MiB"
        )


def measure_mujoco() -> None:
    """Prints what changes to MuJoCo's models gain, and which of them are refused."""
    for task in [get_task(name) for name in TASK_NAMES.value]:
        if task.kind != "Velocity":
            print(format_variants(task, compare(task, STEPS.value), STEPS.value), flush=True)


def record_actions(task: Task, worlds: int, steps: int) -> np.ndarray:
    """`[steps, N, A]` actions of lidar controllers, or smooth noise for other robots."""
    if task.kind == "Velocity":
        noise = np.random.default_rng(0).normal(size=(steps + 9, worlds, task.action_size))
        smooth = np.stack([noise[t : t + 10].mean(axis=0) for t in range(steps)])
        return np.clip(2 * smooth, -1, 1).astype(np.float32)
    seeds, actions = np.arange(worlds), []
    act = ControllerMixture(task, CollectConfig())
    with BatchedEnv(task, worlds) as env:
        obs = env.reset(range(worlds))
        for t in range(steps):
            actions.append(act(obs, seeds, np.full(worlds, t)))
            obs = env.step(actions[-1]).obs
    return np.stack(actions)


def measure(task: Task, threads: int, actions: np.ndarray) -> Row:
    """Measures one task on so many threads."""
    steps, worlds, _ = actions.shape
    official, batched = _Official(task), _Batched(task, worlds, threads)
    bare = BareWorlds(task, worlds, threads)
    bare.reset(range(worlds), range(worlds))
    bare_s = 0.0
    for action in actions:
        official.step(action[0])
        ended = batched.step(action)
        started = time.perf_counter()
        bare.step(action)
        bare_s += time.perf_counter() - started
        bare.reset(ended, ended)
    batched.close()
    bare.close()
    official_rate = 1 / official.seconds_a_step(task.episode_steps)
    batched_rate = 1 / batched.seconds_a_step(task.episode_steps)
    bare_rate = steps * worlds / bare_s
    return Row(
        task=task.name.removeprefix("Safety"),
        threads=threads,
        worlds=worlds,
        official_steps_per_s=official_rate,
        batched_steps_per_s=batched_rate,
        ratio=batched_rate / official_rate,
        bare_steps_per_s=bare_rate,
        share_of_bare=batched_rate / bare_rate,
        official_reset_ms=1e3 * official.reset_s,
        batched_reset_ms=1e3 * batched.reset_s,
        resets_included=True,
    )


class _Clock:
    """Seconds in steps and in resets that episodes asked for, and of one reset.

    An episode that ends of itself pays its reset when it happens; the time
    limit, which these short runs do not reach, at its rate.
    """

    def __init__(self, task: Task):
        self.task, self.reset_s = task, 0.0
        self._spent, self._steps = 0.0, 0

    def spend(self, call: Callable[[], Any], steps: int) -> Any:
        started = time.perf_counter()
        result = call()
        self._spent += time.perf_counter() - started
        self._steps += steps
        return result

    def seconds_a_step(self, episode_steps: int) -> float:
        return self._spent / self._steps + self.reset_s / episode_steps


class _Official(_Clock):
    def __init__(self, task: Task):
        super().__init__(task)
        self._env = make_official(task)
        self._env.reset(seed=0)
        started = time.perf_counter()
        self._env.reset(seed=0)
        self.reset_s = time.perf_counter() - started

    def step(self, action: np.ndarray) -> None:
        _, _, terminated, truncated, _ = self.spend(lambda: self._env.step(action), 1)
        if terminated or truncated:
            self.spend(lambda: self._env.reset(seed=0), 0)


class _Batched(_Clock):
    def __init__(self, task: Task, worlds: int, threads: int):
        super().__init__(task)
        self._env, self._worlds = BatchedEnv(task, worlds, threads), worlds
        started = time.perf_counter()
        self._env.reset(range(worlds))
        self.reset_s = (time.perf_counter() - started) / worlds

    def step(self, actions: np.ndarray) -> list[int]:
        """Steps all worlds; returns those whose episode ended and began again."""
        result = self.spend(lambda: self._env.step(actions), self._worlds)
        ended = np.flatnonzero(result.terminated | result.truncated).tolist()
        if ended:
            self.spend(lambda: self._env.reset(ended, ended), 0)
        return ended

    def close(self) -> None:
        self._env.close()


_HEADER = (
    f"{'task':18}{'threads':>8}{'official/s':>12}{'batched/s':>12}{'ratio':>8}{'bare/s':>10}{'share':>8}"
    f"{'reset ms':>10}"
)


def format_row(row: Row) -> str:
    """A row as a line of the table."""
    return (
        f"{row.task:18}{row.threads:8}{row.official_steps_per_s:12.0f}"
        f"{row.batched_steps_per_s:12.0f}{row.ratio:8.1f}{row.bare_steps_per_s:10.0f}"
        f"{row.share_of_bare:8.2f}{row.batched_reset_ms:10.2f}"
    )


def _write(path: str, text: str) -> None:
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(partial, path)


def _resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    app.run(main)
