"""How well the shipped rules agree with the simulator's cost, task by task.

    python -m proco_jax.knowledge.check --tasks=PointGoal1,CarButton1 --episodes=10

The true cost is looked at here and nowhere else in this room: this is a check
of knowledge that is already written, no part of any training.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import write_text
from proco_jax.common.statistics import recall_and_precision
from proco_jax.config.schema import CollectConfig, CostConfig
from proco_jax.envs.controllers import ControllerMixture
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.simulator import make_official
from proco_jax.envs.tasks import TASKS, Task, get_task
from proco_jax.envs.vector import make_vector_env
from proco_jax.knowledge.files import load_knowledge
from proco_jax.knowledge.labelers import rule_labeller, shipped_rule

_FIRST_SEED = 5_000_000
_LAUNCH_EVERY = 20
_WORLDS = 8


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A rule against the simulator's cost.

    Attributes:
      task: its name.
      steps: states that were judged.
      unsafe: share of them that cost.
      recall: share of the costly states that the rule calls unsafe; None
        without any.
      precision: share of the states called unsafe that cost; None without any.
      wide_recall: the same with the rule widened by the margin.
      wide_precision: the same.
    """

    task: str
    steps: int
    unsafe: float
    recall: float | None
    precision: float | None
    wide_recall: float | None
    wide_precision: float | None


def check_task(task: Task, episodes: int, margin: float, seed: int = 0) -> Agreement:
    """Runs episodes and compares.

    Navigation tasks are driven by the mixture of lidar controllers. Velocity
    tasks have no controller here and seldom reach their limit by chance, so
    they are launched again and again at a random speed around it.

    Args:
      task: from the task table.
      episodes: how many.
      margin: widening of the rule, in its unit.
      seed: of the episodes.
    """
    sample = _launched if task.kind == "Velocity" else _driven
    obs, cost = sample(task, episodes, seed)
    label = rule_labeller([shipped_rule(load_knowledge(task.name, task.spec))], margin)
    rule = label(obs).margin
    unsafe = cost > 0
    recall, precision = recall_and_precision(rule >= 0, unsafe)
    wide_recall, wide_precision = recall_and_precision(rule >= -margin, unsafe)
    share = float(unsafe.mean())
    return Agreement(task.name, len(obs), share, recall, precision, wide_recall, wide_precision)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m proco_jax.knowledge.check")
    parser.add_argument("--tasks", default="all", help="names, separated by commas")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--margin", type=float, default=CostConfig().margin)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args(arguments)
    try:
        names = list(TASKS) if options.tasks == "all" else options.tasks.split(",")
        tasks = [get_task(name) for name in names]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(_row(["task", "states", "unsafe", "recall", "precision", "widened recall", "precision"]))
    print(_row(["---"] * 7))
    rows = []
    for task in tasks:
        rows.append(check_task(task, options.episodes, options.margin, options.seed))
        print(_row(_cells(rows[-1])), flush=True)
    if options.out:
        content: list[dict[str, Any]] = [dataclasses.asdict(row) for row in rows]
        write_text(options.out, json.dumps(content, indent=2) + "\n")
    return 0


def _driven(task: Task, episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States `[M, O]` and costs `[M]` of controlled episodes."""
    env = make_vector_env(task, min(_WORLDS, episodes), "batched")
    try:
        seeds = [_FIRST_SEED + seed * episodes + i for i in range(episodes)]
        done = run_episodes(env, ControllerMixture(task, CollectConfig()), seeds)
    finally:
        env.close()
    return np.concatenate([e.obs[1:] for e in done]), np.concatenate([e.cost for e in done])


def _launched(task: Task, episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for a velocity task whose robot is thrown forward every few steps."""
    env = make_official(task)
    rng = np.random.default_rng(seed)
    obs: list[np.ndarray] = []
    cost: list[float] = []
    try:
        for episode in range(episodes):
            env.reset(seed=_FIRST_SEED + seed * episodes + episode)
            over = False
            for step in range(task.episode_steps // 2):
                if over:
                    env.reset()
                if over or step % _LAUNCH_EVERY == 0:
                    _launch(env.unwrapped, task, rng)
                action = rng.uniform(-1, 1, task.action_size)
                seen, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
                obs.append(np.asarray(seen, np.float32))
                cost.append(float(info["cost"]))
    finally:
        env.close()
    return np.stack(obs), np.array(cost, np.float32)


def _launch(simulator: Any, task: Task, rng: np.random.Generator) -> None:
    velocity = simulator.data.qvel.copy()
    velocity[0] = rng.uniform(0.0, 2.0) * task.velocity_limit
    if task.robot == "Ant":
        velocity[1] = rng.uniform(-1.0, 1.0) * task.velocity_limit
    simulator.set_state(simulator.data.qpos.copy(), velocity)


def _cells(row: Agreement) -> list[str]:
    shares = (row.recall, row.precision, row.wide_recall, row.wide_precision)
    texts = ["none seen" if share is None else f"{share:.3f}" for share in shares]
    return [row.task, str(row.steps), f"{row.unsafe:.3f}", *texts]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
