"""Labelers: functions from states to labels."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from proco_jax.knowledge.files import Knowledge, KnowledgeError
from proco_jax.observation import ObservationSpec
from proco_jax.rules.ring_functions import bearing_of
from proco_jax.rules.rule import Rule
from proco_jax.types import LabeledStates

Labeler = Callable[[np.ndarray], LabeledStates]

_CHUNK = 16384


@dataclasses.dataclass(frozen=True)
class Usage:
    """Calls of a language model so far.

    Attributes:
      calls: calls that reached the model; answers from the cache are none.
      cached: answers taken from the cache.
      tokens_in: tokens sent in those calls.
      tokens_out: tokens received.
      usd: what the calls cost, as far as prices are known.
    """

    calls: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0


def shipped_rule(knowledge: Knowledge) -> Rule:
    """The rule in a knowledge file.

    Raises:
      KnowledgeError: if there is none.
    """
    if knowledge.rule is None:
        raise KnowledgeError(
            f"the knowledge of {knowledge.name!r} holds no rule; let a model write one with"
            " --config.knowledge.model=NAME, or use a file with a section '## Rule'"
            " (--config.knowledge.file) without --config.knowledge.text"
        )
    return knowledge.rule


def rule_labeler(rules: Sequence[Rule], widening: float) -> Labeler:
    """Labels by the votes of rules, each widened.

    The probability is the share of rules that call a state unsafe, the
    confidence the share that agrees with the majority, the margin the largest
    of the rules' margins (unsure is unsafe), NaN where their units differ. A
    rule that cannot tell (its margin is no number) votes unsafe.

    Args:
      rules: one or more.
      widening: how much wider than the rule the unsafe set is, in its unit.
    """
    if not rules:
        raise ValueError("expected at least one rule")
    margins_of = jax.jit(lambda obs: jax.numpy.stack([r.margin(obs) for r in rules]))
    comparable = len({rule.unit for rule in rules}) == 1

    def label(obs: np.ndarray) -> LabeledStates:
        obs = np.asarray(obs, np.float32)
        margins = _in_chunks(margins_of, obs, len(rules))
        votes = ~(margins < -widening)
        unsafe = votes.mean(axis=0, dtype=np.float32)
        margin = margins.max(axis=0) if comparable else np.full(len(obs), np.nan, np.float32)
        return LabeledStates(obs, unsafe, margin, np.maximum(unsafe, 1 - unsafe))

    return label


def approach_speed(obs: np.ndarray, spec: ObservationSpec, rules: Sequence[Rule]) -> np.ndarray:
    """Speed towards the nearest object of the first ring that the rules read.

    Args:
      obs: `[M, O]` raw observations.
      spec: their fields.
      rules: tell which ring matters.

    Returns:
      `[M]` in m/s; NaN where there is no such ring or no velocity.
    """
    read = {name for rule in rules for name in rule.fields}
    rings = [f for f in spec.rings if f.name in read]
    velocities = [f for f in spec.fields if f.kind == "vector" and f.unit == "m/s"]
    if not rings or not velocities:
        return np.full(len(obs), np.nan, np.float32)
    obs = np.asarray(obs, np.float32)
    # What a rule names first matters most to whoever wrote it.
    ring = min(rings, key=lambda f: _first_named(f.name, rules))
    velocity = obs[:, spec.slices[velocities[0].name]]
    angle = np.asarray(bearing_of(obs[:, spec.slices[ring.name]]))[:, 0]
    return velocity[:, 0] * np.cos(angle) + velocity[:, 1] * np.sin(angle)


def _first_named(name: str, rules: Sequence[Rule]) -> int:
    return min(rule.text.index(name) for rule in rules if name in rule.fields)


def _in_chunks(margins_of: Callable, obs: np.ndarray, rules: int) -> np.ndarray:
    """`[rules, M]`, computed a piece of fixed size at a time to bound memory and compilations."""
    if not len(obs):
        return np.zeros((rules, 0), np.float32)
    size = min(_CHUNK, 1 << (len(obs) - 1).bit_length())
    padded = np.concatenate([obs, np.repeat(obs[-1:], -len(obs) % size, axis=0)])
    parts = [np.asarray(margins_of(padded[i : i + size])) for i in range(0, len(padded), size)]
    return np.concatenate(parts, axis=1)[:, : len(obs)]
