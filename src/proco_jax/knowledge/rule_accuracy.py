"""Recall and precision of rules against the simulator's cost, task by task.

    python -m proco_jax.knowledge.rule_accuracy --tasks=PointGoal1,CarButton1 --episodes=10
    python -m proco_jax.knowledge.rule_accuracy --models=shipped,recorded

The true cost is read here and nowhere else in this folder: this checks rules that are already
written, and is no part of any training.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from proco_jax.common.commands import begin_command
from proco_jax.common.files import write_text
from proco_jax.common.statistics import recall_and_precision
from proco_jax.config.schema import CollectConfig, Config, CostConfig
from proco_jax.envs.controllers import ControllerMixture
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.simulator import make_official
from proco_jax.envs.tasks import TASKS, Task, get_task
from proco_jax.envs.vector import make_vector_env
from proco_jax.knowledge.grounding import SHIPPED_MODEL, ground
from proco_jax.knowledge.labelers import rule_labeler
from proco_jax.rules.rule import Rule

_FIRST_SEED = 5_000_000
_LAUNCH_EVERY = 20
_WORLDS = 8
_COLUMNS = (
    "task",
    "rules",
    "states",
    "unsafe",
    "recall",
    "precision",
    "widened recall",
    "widened precision",
)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Rules of one model against the simulator's cost on one task.

    Several rules vote: a state is called unsafe if at least half of them do.

    Attributes:
      task: name of the task.
      model: `shipped`, `recorded` or the name of a language model.
      steps: number of states.
      unsafe: share of the states with a cost.
      recall: share of the states with a cost that are called unsafe; None without any.
      precision: share of the states called unsafe that have a cost; None without any.
      wide_recall: the same for the rules widened by the margin.
      wide_precision: the same for the rules widened by the margin.
    """

    task: str
    model: str
    steps: int
    unsafe: float
    recall: float | None
    precision: float | None
    wide_recall: float | None
    wide_precision: float | None


def check_task(
    task: Task,
    episodes: int,
    margin: float,
    seed: int = 0,
    models: Sequence[str] = (SHIPPED_MODEL,),
) -> list[Agreement]:
    """Compares the rules of each model with the cost on the same episodes.

    In navigation tasks the mixture of lidar controllers drives. Velocity tasks have no controller
    and seldom reach their limit under random actions, so that the robot is given a random speed
    around the limit every few steps.

    Args:
      task: from the task table.
      episodes: number of episodes.
      margin: by how much the widened rules are wider, in their unit.
      seed: of the episodes.
      models: as `knowledge.model`.

    Raises:
      KnowledgeError, ModelError: if the rules of a model are not available.
    """
    rules = [_rules(task, model) for model in models]
    sample = _launched if task.kind == "Velocity" else _driven
    obs, cost = sample(task, episodes, seed)
    return [
        _agreement(task, model, own, obs, cost > 0, margin)
        for model, own in zip(models, rules, strict=True)
    ]


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_list("tasks", list(TASKS), "Tasks to check.")
    flags.DEFINE_list("models", [SHIPPED_MODEL], "Whose rules: shipped, recorded, or model names.")
    flags.DEFINE_integer("episodes", 10, "Episodes per task.", lower_bound=1)
    flags.DEFINE_float("margin", CostConfig().margin, "By how much the widened rule is wider.")
    flags.DEFINE_integer("seed", 0, "Seed of the episodes.", lower_bound=0)
    flags.DEFINE_string("out", "", "JSON file for the rows.")
    app.run(main)


def main(argv: Sequence[str]) -> None:
    """Checks the tasks and prints a table."""
    begin_command(argv)
    options = flags.FLAGS
    try:
        tasks = [get_task(name) for name in options.tasks]
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(_row(_COLUMNS))
    print(_row(["---"] * len(_COLUMNS)))
    rows = []
    for task in tasks:
        try:
            new = check_task(task, options.episodes, options.margin, options.seed, options.models)
        except ValueError as error:
            sys.exit(f"error: {error}")
        for row in new:
            print(_row(_cells(row)), flush=True)
        rows += new
    if options.out:
        content: list[dict[str, Any]] = [dataclasses.asdict(row) for row in rows]
        write_text(Path(options.out), json.dumps(content, indent=2) + "\n")


def _rules(task: Task, model: str) -> tuple[Rule, ...]:
    config = Config(task=task.name)
    config.knowledge.model = model
    with tempfile.TemporaryDirectory() as workdir:
        return ground(config, task.spec, Path(workdir), lambda line: None).rules


def _agreement(
    task: Task,
    model: str,
    rules: Sequence[Rule],
    obs: np.ndarray,
    unsafe: np.ndarray,
    margin: float,
) -> Agreement:
    shares: list[float | None] = []
    for widening in (0.0, margin):
        called = rule_labeler(rules, widening)(obs).unsafe >= 0.5
        shares += recall_and_precision(called, unsafe)
    return Agreement(task.name, model, len(obs), float(unsafe.mean()), *shares)


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
    """The same for a velocity task whose robot gets a random forward velocity every few steps."""
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
    return [row.task, row.model, str(row.steps), f"{row.unsafe:.3f}", *texts]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    run()
