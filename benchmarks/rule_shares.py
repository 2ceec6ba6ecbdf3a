"""How much of violation-free logs, and of varied copies of their states, rules call unsafe.

    python -m benchmarks.rule_shares --out=rule_shares.json
    python -m benchmarks.rule_shares --tasks=CarButton1 --models=shipped,recorded

The thresholds of `knowledge/rule_checks.py` were chosen by this table. In navigation tasks the
lidar controllers of the `collect` source drive until enough episodes without a violation are
found. Velocity tasks have no controller: their robots take random actions, with an amplitude
drawn for each episode. Most of them stay far below the limit, unlike those of trained policies.
"""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from proco_jax.common.commands import begin_command
from proco_jax.common.files import write_text
from proco_jax.config.schema import Config
from proco_jax.envs.controllers import ControllerMixture, default_collect
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.tasks import TASKS, Task, get_task
from proco_jax.envs.vector import make_vector_env
from proco_jax.knowledge.grounding import SHIPPED_MODEL, ground
from proco_jax.knowledge.rule_checks import unsafe_shares
from proco_jax.rules.rule import parse_rule

_FIRST_SEED = 6_000_000
_WORLDS = 12


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      task: name of the task.
      rule: its text.
      episodes: violation-free episodes.
      states: states in them.
      logged: share of these states that the rule calls unsafe.
      varied: share of varied copies of them.
    """

    task: str
    rule: str
    episodes: int
    states: int
    logged: float
    varied: float


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_list("tasks", list(TASKS), "tasks to measure")
    flags.DEFINE_list("models", [SHIPPED_MODEL], "whose rules: shipped or recorded")
    flags.DEFINE_string("rule", "", "measure this rule in place of those of the models")
    flags.DEFINE_integer("episodes", 6, "violation-free episodes", lower_bound=1)
    flags.DEFINE_integer("most", 48, "episodes driven to find them at most", lower_bound=1)
    flags.DEFINE_string("out", "", "JSON file for the rows")
    app.run(main)


def main(argv: Sequence[str]) -> None:
    """Prints a row for each task and rule; writes them to `--out`.

    Raises:
      ValueError: on an unknown task, or one whose controllers never avoid a violation.
    """
    begin_command(argv)
    options = flags.FLAGS
    tasks = [get_task(name) for name in options.tasks]
    print("| task | episodes | states | logged | varied | rule |\n|---|---|---|---|---|---|")
    rows: list[Row] = []
    for task in tasks:
        rules = [options.rule] if options.rule else rules_of(task, options.models)
        for row in measure(task, rules, options.episodes, options.most):
            rows.append(row)
            text = " ".join(row.rule.split())
            shares = f"{row.logged:.3%} | {row.varied:.2%}"
            print(
                f"| {row.task} | {row.episodes} | {row.states} | {shares} | `{text}` |", flush=True
            )
        if options.out:
            text = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
            write_text(Path(options.out), text + "\n")


def rules_of(task: Task, models: Sequence[str]) -> list[str]:
    """The texts of the rules of these models, each once."""
    texts = []
    for model in models:
        config = Config(task=task.name)
        config.knowledge.model = model
        with tempfile.TemporaryDirectory() as workdir:
            found = ground(config, task.spec, Path(workdir), lambda line: None)
        texts += [rule.text for rule in found.rules]
    return list(dict.fromkeys(texts))


def measure(task: Task, rules: Sequence[str], episodes: int, most: int) -> list[Row]:
    """Measures rules on the same violation-free episodes.

    Args:
      task: from the task table.
      rules: their texts.
      episodes: how many violation-free episodes are wanted.
      most: how many are driven for that at most.

    Raises:
      ValueError: if none of them is free of violations.
    """
    found = violation_free(task, episodes, most)
    if not found:
        raise ValueError(f"{task.name}: all of {most} episodes have a cost; raise --most")
    obs = np.concatenate(found)
    rows = []
    for text in rules:
        shares = unsafe_shares(parse_rule(text, task.spec), obs, task.spec)
        row = Row(task.name, text, len(found), len(obs), shares.logged, shares.varied)
        rows.append(row)
    return rows


def violation_free(task: Task, episodes: int, most: int) -> list[np.ndarray]:
    """The observations `[T + 1, O]` of episodes without any cost, in the order of their seeds."""
    if task.kind == "Velocity":
        act = lambda obs, seeds, steps: _random_actions(task, seeds, steps)  # noqa: E731
    else:
        act = ControllerMixture(task, default_collect(task))
    found: list[np.ndarray] = []
    worlds = min(_WORLDS, most)
    env = make_vector_env(task, worlds)
    try:
        for first in range(0, most, worlds):
            seeds = [_FIRST_SEED + i for i in range(first, min(first + worlds, most))]
            done = run_episodes(env, act, seeds)
            found += [episode.obs for episode in done if not episode.cost.any()]
            if len(found) >= episodes:
                break
    finally:
        env.close()
    return found[:episodes]


def _random_actions(task: Task, seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """`[N, A]` actions, the same for the same seed and step."""
    rows = []
    for seed, step in zip(seeds.tolist(), steps.tolist(), strict=True):
        amplitude = np.random.default_rng([seed, 0]).uniform()
        noise = np.random.default_rng([seed, 1, step]).uniform(-1, 1, task.action_size)
        rows.append(amplitude * noise)
    return np.stack(rows)


if __name__ == "__main__":
    run()
