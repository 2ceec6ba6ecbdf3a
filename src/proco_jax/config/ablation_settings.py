"""The ablations: named changes to the settings of a run, one thing at a time."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from proco_jax.config.schema import Config, replaced

# Names of the ablations, and the settings that each changes. "margin 0.1" is in meters: it is
# for navigation tasks.
ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no rollouts": {"augmentation.imagined_share": 0.0},
    "no conservatism": {"cost.margin": 0.0, "cost.miss_weight": 1.0, "cost.ucb_coefficient": 0.0},
    "margin 0.1": {"cost.margin": 0.1},
    "horizon 5": {"rollouts.horizon": 5},
    "horizon 40": {"rollouts.horizon": 40},
    "no recovery rollouts": {"rollouts.recovery_share": 0.0},
    "no risk-seeking": {"rollouts.risk_share": 0.0},
    "risk-seeking only": {"rollouts.risk_share": 1.0, "rollouts.recovery_share": 0.0},
    "a quarter imagined": {"augmentation.imagined_share": 0.25},
    "three quarters imagined": {"augmentation.imagined_share": 0.75},
    "one dynamics network": {"dynamics.members": 1, "dynamics.elites": 1},
    "critics from scratch": {"feasibility.pretrained_encoder": False},
    "published backup": {"feasibility.violation_discount": 0.0},
    "n-step of 1": {"train.n_step": 1},
    "n-step of 25": {"train.n_step": 25},
    "imagined rows at full weight": {"proco.imagined_weight": 1.0},
    "target violation rate 0": {"shield.target_violation_rate": 0.0},
    "target violation rate 0.2": {"shield.target_violation_rate": 0.2},
    "larger thresholds": {
        "shield.target_violation_rate": 0.0,
        "shield.qh_threshold": 6.0,
        "shield.planner_threshold": 12.0,
    },
}


def ablated(config: Config, settings: Mapping[str, Any], seeds: int) -> Config:
    """A copy of a config with some settings replaced.

    Only PROCO with its own augmentation is trained, without interim evaluations.

    Args:
      config: of the run.
      settings: values by dotted names, as in `ABLATIONS`.
      seeds: policies to train.
    """
    result = dataclasses.replace(
        config, seeds=seeds, algorithms=("proco",), augmentations=("proco",)
    )
    return replaced(result, {"evaluation.interim_episodes": 0, **settings})


def needs_training(settings: Mapping[str, Any]) -> bool:
    """Whether changed settings require new policies; False if only deployment or evaluation change.

    Args:
      settings: values by dotted names, as in `ABLATIONS`.
    """
    return not all(
        name == "shields" or name.startswith(("shield.", "evaluation.")) for name in settings
    )
