"""Whether a rule tells states apart, and whether it agrees with logs that are known to be safe."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from proco_jax.knowledge.state_variation import vary_states
from proco_jax.observation import ObservationSpec
from proco_jax.rules.rule import Rule

# A rule must be true of at least this share of the logged or of the varied states, and of at most
# that share of both. The shipped rules are true of 2% to 40% of the varied states.
LEAST_SHARE, MOST_SHARE = 1e-4, 0.999
# Safe logs may hold this share of states that a rule calls unsafe: rules err near the boundary.
MOST_UNSAFE_IN_SAFE_LOGS = 0.15
_STATES = 20_000
# Logs may stay far below a limit on speed, as those of a velocity task's random actions do.
_STRETCH = 10.0


@dataclasses.dataclass(frozen=True)
class LoggedStates:
    """States of the logs against which rules are checked.

    Attributes:
      obs: `[M, O]` raw observations, at least one.
      safe: whether the logs are known to hold no violation.
    """

    obs: np.ndarray
    safe: bool


@dataclasses.dataclass(frozen=True)
class UnsafeShares:
    """How much a rule calls unsafe.

    Attributes:
      logged: share of the logged states.
      varied: share of varied copies of them, whose fields are moved and stretched.
    """

    logged: float
    varied: float


def unsafe_shares(rule: Rule, obs: np.ndarray, spec: ObservationSpec) -> UnsafeShares:
    """The share of logged and of varied states that a rule calls unsafe.

    The same for the same logs in every run: a model that is asked again with these shares gets the
    same question, which the cache answers.

    Args:
      rule: without any widening.
      obs: `[M, O]` logged states; at most 20,000 of them, evenly spaced, are used.
      spec: their fields.
    """
    rows = np.unique(np.linspace(0, len(obs) - 1, min(len(obs), _STATES)).astype(np.int64))
    logged = np.asarray(obs[rows], np.float32)
    varied = vary_states(logged, spec, rule.fields, _STATES, seed=0, stretch=_STRETCH)
    return UnsafeShares(
        *(float(np.mean(np.asarray(rule.unsafe(states)))) for states in (logged, varied))
    )


def vacuous(shares: UnsafeShares) -> str | None:
    """Why a rule with these shares tells nothing of a state; None if it does."""
    if max(shares.logged, shares.varied) < LEAST_SHARE:
        called, expected = "no state", f"at least {LEAST_SHARE:.2%} of either"
    elif max(shares.logged, shares.varied) > MOST_SHARE:
        called, expected = "every state", f"at most {MOST_SHARE:.1%} of both"
    else:
        return None
    reason = (
        f"the rule is true of {shares.logged:.2%} of the logged states and {shares.varied:.2%} of"
        f" varied copies of them, expected {expected}: it calls {called} unsafe; check its"
        " numbers, its units and the direction of its comparisons"
    )
    if called == "no state":
        reason += ", and whether the logs come anywhere near what is unsafe"
    return reason


def contradiction(rules: Sequence[Rule], shares: Sequence[UnsafeShares]) -> str | None:
    """A warning about rules that call too much of safe logs unsafe; None if there are none."""
    found = [
        f"{share.logged:.1%} ({rule.text})"
        for rule, share in zip(rules, shares, strict=True)
        if share.logged > MOST_UNSAFE_IN_SAFE_LOGS
    ]
    if not found:
        return None
    return (
        "warning: the rules contradict the logs, which hold no violation: of the logged states, of"
        f" which at most {MOST_UNSAFE_IN_SAFE_LOGS:.0%} should be unsafe, they call unsafe "
        + "; ".join(found)
    )
