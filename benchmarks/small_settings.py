"""The smallest run with every stage, for tests and benchmarks that run it often."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proco_jax.common.shipped import shipped_experiments
from proco_jax.config.schema import Config, replaced

# A few seconds of training. Nothing is learned.
SMALL: dict[str, Any] = {
    "data.episodes": 6,
    "data.collect.behavior": "controllers",
    "data.holdout_share": 0.2,
    "encoder.bin_hidden": (8,),
    "encoder.features": 16,
    "dynamics.members": 2,
    "dynamics.elites": 2,
    "dynamics.bin_hidden": (8,),
    "dynamics.hidden": (16,),
    "dynamics.steps": 60,
    "dynamics.holdout_every": 20,
    "dynamics.batch": 32,
    "dynamics.trajectory.steps": 20,
    "dynamics.trajectory.horizon": 3,
    "dynamics.trajectory.batch": 8,
    "knowledge.rule_states": 1000,
    "cost.members": 2,
    "cost.hidden": (16,),
    "cost.steps": 30,
    "cost.batch": 64,
    "cost.recall": 0.9,
    "exploration.horizon": 4,
    "exploration.starts": 4,
    "exploration.candidates": 2,
    "rollouts.horizon": 4,
    "rollouts.starts": 4,
    "rollouts.candidates": 2,
    "rollouts.interval": 10,
    "rollouts.generations": 2,
    "rollouts.warmup": 1,
    "bonus.members": 2,
    "bonus.steps": 30,
    "proco.hidden": (16,),
    "proco.imagination.updates": 5,
    "proco.imagination.warmup": 1,
    "proco.imagination.interval": 2,
    "proco.imagination.critic_steps": 2,
    "proco.imagination.worlds": 4,
    "proco.imagination.horizon": 4,
    "proco.imagination.age": 3,
    "proco.imagination.minibatches": 2,
    "proco.imagination.episodes": 4,
    "feasibility.hidden": (16,),
    "bc.hidden": (16,),
    "coptidice.hidden": (16,),
    "fisor.hidden": (16,),
    "fisor.width": 8,
    "fisor.blocks": 1,
    "shield.samples": 2,
    "shield.planner_candidates": 4,
    "shield.planner_variations": 2,
    "shield.planner_horizon": 4,
    "shield.forecast_starts": 2,
    "train.batch": 16,
    "train.steps": 40,
    "train.chunk": 10,
    "train.checkpoint_every": 10,
    "evaluation.episodes": 1,
    "evaluation.interim_episodes": 1,
    "evaluation.interim_every": 20,
    "evaluation.worlds": 2,
}

# A third of the time of PointGoal1: networks without rings, episodes that end early.
SMALL_HOPPER: dict[str, Any] = SMALL | {
    "data.episodes": 40,
    "data.collect.behavior": "policies",
}


def small_config(settings: Mapping[str, Any], experiment: str = "point_goal") -> Config:
    """The quick variant of an experiment with these settings, the config of `small_flags`."""
    shipped = runpy.run_path(str(shipped_experiments() / f"{experiment}.py"))
    return replaced(shipped["get_config"]("quick"), settings)


def small_flags(
    workdir: Path, settings: Mapping[str, Any], experiment: str = "point_goal"
) -> list[str]:
    """The flags of a command on the quick variant of an experiment with these settings."""
    return [
        f"--config=experiments/{experiment}.py:quick",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in settings.items()),
    ]


def one_compilation(folder: Path) -> dict[str, str]:
    """Environment variables: processes compile the same programs for one CPU device, once.

    Args:
      folder: of the compiled programs.
    """
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
