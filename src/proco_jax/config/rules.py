"""What the settings of a run may be."""

from collections.abc import Mapping
from typing import Any

Rule = tuple[str, Any, bool, str]

REGIMES = ("safe", "limited", "full")
BACKENDS = ("batched", "official")
LABELLERS = ("rule", "states")

_SHARES = (
    "data.limited_share",
    "data.holdout_share",
    "knowledge.boundary_share",
    "cost.holdout_share",
    "rollouts.risk_share",
    "rollouts.escape_share",
    "rollouts.risky_start_share",
    "rollouts.risky_top",
    "proco.imagined_share",
    "proco.violating_share",
)
_OPEN_UNIT = (
    "cost.recall",
    "rollouts.disagreement_quantile",
    "feasibility.discount",
    "feasibility.expectile",
    "feasibility.target_rate",
    "agent.discount",
    "agent.expectile",
    "agent.target_rate",
)
_AT_LEAST_ONE = (
    "seeds",
    "evaluation.worlds",
    "data.episodes",
    "encoder.features",
    "dynamics.members",
    "dynamics.elites",
    "dynamics.steps",
    "dynamics.batch",
    "dynamics.holdout_every",
    "knowledge.states",
    "knowledge.rule_states",
    "knowledge.votes",
    "knowledge.rounds",
    "knowledge.batch",
    "knowledge.concurrency",
    "knowledge.retries",
    "cost.members",
    "cost.steps",
    "cost.batch",
    "rollouts.horizon",
    "rollouts.starts",
    "rollouts.candidates",
    "rollouts.interval",
    "rollouts.generations",
    "rollouts.warmup",
    "agent.lookahead",
    "agent.samples",
    "agent.escape_horizon",
    "train.steps",
    "train.batch",
    "train.chunk",
    "train.checkpoint_every",
    "evaluation.episodes",
    "evaluation.interim_every",
)
_ABOVE_ZERO = (
    "dynamics.learning_rate",
    "cost.learning_rate",
    "cost.miss_weight",
    "rollouts.persistence",
    "rollouts.disagreement_slack",
    "agent.learning_rate",
    "agent.cost_temperature",
)


def rules(flat: Mapping[str, Any]) -> list[Rule]:
    """Name, value, whether it may be so, and what is expected.

    Args:
      flat: dotted names and values of all settings, of the right types.
    """
    rules = [(n, flat[n], 0 <= flat[n] <= 1, "a share between 0 and 1") for n in _SHARES]
    rules += [(n, flat[n], 0 < flat[n] < 1, "a number between 0 and 1") for n in _OPEN_UNIT]
    rules += [(n, flat[n], flat[n] >= 1, "at least 1") for n in _AT_LEAST_ONE]
    rules += [(n, flat[n], flat[n] > 0, "a number above 0") for n in _ABOVE_ZERO]
    zero = ("env.workers", "cost.margin", "seed", "agent.imagined_weight", "agent.escapes")
    rules += [(n, flat[n], flat[n] >= 0, "0 or more") for n in (*zero, "agent.reward_temperature")]
    duration = flat["feasibility.duration"]
    rules += [("feasibility.duration", duration, 0 <= duration < 1, "0 or more and below 1")]
    rules += _risk_rules(flat)
    return rules + _choice_rules(flat) + _multiple_rules(flat)


def _risk_rules(flat: Mapping[str, Any]) -> list[Rule]:
    risk, starts = flat["agent.risk"], flat["evaluation.foreseen"]
    expected = f"at least 1 where --config.agent.risk is above 0 (it is {risk})"
    return [
        ("evaluation.foreseen", starts, starts >= 0, "0 or more"),
        ("agent.risk", risk, 0 <= risk < 1, "0 or more and below 1"),
        ("evaluation.foreseen", starts, risk <= 0 or starts >= 1, expected),
    ]


def _choice_rules(flat: Mapping[str, Any]) -> list[Rule]:
    choices = {
        "data.regime": REGIMES,
        "env.backend": BACKENDS,
        "knowledge.labeller": LABELLERS,
    }
    found = [(n, flat[n], flat[n] in c, f"one of {c}") for n, c in choices.items()]
    source = flat["data.source"]
    kind = source.partition(":")
    known = source == "collect" or (kind[0] in ("minari", "dsrl") and bool(kind[2]))
    expected = "collect, minari:<dataset id> or dsrl:<file or task>"
    return [*found, ("data.source", source, known, expected)]


def _multiple_rules(flat: Mapping[str, Any]) -> list[Rule]:
    chunk = flat["train.chunk"]
    expected = f"a multiple of --config.train.chunk={chunk}"
    spans = ("train.steps", "train.checkpoint_every", "evaluation.interim_every")
    found = [(n, flat[n], chunk >= 1 and flat[n] % chunk == 0, expected) for n in spans]
    elites, members = flat["dynamics.elites"], flat["dynamics.members"]
    interval = flat["rollouts.interval"]
    return [
        *found,
        (
            "dynamics.elites",
            elites,
            elites <= members,
            f"at most --config.dynamics.members={members}",
        ),
        (
            "rollouts.interval",
            interval,
            interval >= 1 and chunk % interval == 0,
            f"a divisor of --config.train.chunk={chunk}",
        ),
    ]
