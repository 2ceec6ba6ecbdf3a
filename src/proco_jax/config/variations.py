"""The changes of one thing at a time that the ablations make."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from proco_jax.config.schema import Config, EvalConfig

# Names and the settings that they change.
CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "behaviour cloning": {
        "proco.enabled": False,
        "agent.reward_temperature": 0.0,
        "agent.samples": 1,
    },
    "no generated costs": {"proco.enabled": False},
    "no rollouts": {"proco.imagined_share": 0.0},
    "no conservatism": {"cost.margin": 0.0, "cost.miss_weight": 1.0, "cost.deviations": 0.0},
    "margin 0.1": {"cost.margin": 0.1},
    "horizon 5": {"rollouts.horizon": 5},
    "horizon 40": {"rollouts.horizon": 40},
    "no escapes": {"rollouts.escape_share": 0.0},
    "no risk-seeking": {"rollouts.risk_share": 0.0},
    "risk-seeking alone": {"rollouts.risk_share": 1.0, "rollouts.escape_share": 0.0},
    "a quarter imagined": {"proco.imagined_share": 0.25},
    "three quarters imagined": {"proco.imagined_share": 0.75},
    "one dynamics network": {"dynamics.members": 1, "dynamics.elites": 1},
    "published backup": {"feasibility.duration": 0.0},
    "advantage of one step": {"agent.lookahead": 1},
    "advantage of 25 steps": {"agent.lookahead": 25},
    "imagined actions weigh fully": {"agent.imagined_weight": 1.0},
    "no way out searched": {"agent.escapes": 0},
    "nothing at risk": {"agent.risk": 0.0},
    "a fifth at risk": {"agent.risk": 0.2},
    "a bolder choice": {
        "agent.risk": 0.0,
        "agent.feasible_up_to": 6.0,
        "agent.escape_above": 6.0,
    },
    "the policy alone": {"agent.samples": 1, "agent.escapes": 0},
}
# What only a deployed policy asks for.
_DEPLOYED = {
    "agent.samples",
    "agent.feasible_up_to",
    "agent.escapes",
    "agent.escape_above",
    "agent.escape_horizon",
    "agent.risk",
}


def trains(settings: Mapping[str, Any]) -> bool:
    """Whether a policy must be trained anew to show what these settings change."""
    return not settings.keys() <= _DEPLOYED


def changed(config: Config, settings: Mapping[str, Any], seeds: int) -> Config:
    """A copy of a config with these settings, so many seeds and PROCO alone."""
    result = dataclasses.replace(config, seeds=seeds, baseline=False)
    for name, value in settings.items():
        room, _, field = name.partition(".")
        part = dataclasses.replace(getattr(result, room), **{field: value})
        result = dataclasses.replace(result, **{room: part})
    # Only a risk asks for it, and it takes as long as playing does.
    foreseen = result.evaluation.foreseen or EvalConfig().foreseen
    foreseen = foreseen if result.agent.risk else 0
    quiet = dataclasses.replace(result.evaluation, interim_episodes=0, foreseen=foreseen)
    return dataclasses.replace(result, evaluation=quiet)
