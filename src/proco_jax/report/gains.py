"""What training and what the shield contributes, as paired differences between policies."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from proco_jax.common.statistics import Interval, paired_bootstrap
from proco_jax.evaluation.results import AUGMENTATIONS, SHIELDS, Policy
from proco_jax.report.tables import Summary, axis_columns, markdown_table

GAINS_CAPTION = (
    "Differences between two policies that differ in one axis only, each at its last checkpoint. "
    "*Training* compares augmentations without a shield, *shield* compares shields of the same "
    "trained policy. Mean per episode [95% bootstrap interval: seeds, and within each its "
    "episodes, drawn with replacement, the same for both policies]. A negative difference in cost "
    "is an improvement, a positive difference in return is an improvement."
)


@dataclasses.dataclass(frozen=True)
class Gain:
    """The difference between two policies that differ in one axis.

    Attributes:
      axis: `training` if the augmentations differ, `shield` if the shields do.
      policy: the first of the two.
      baseline: the second.
      seeds: number of seeds that both have.
      episodes: number of episodes of each seed that both have.
      cost: mean cost of the policy minus that of the baseline.
      episode_return: the same of the returns.
    """

    axis: str
    policy: Summary
    baseline: Summary
    seeds: int
    episodes: int
    cost: Interval
    episode_return: Interval


def gains(summaries: Sequence[Summary]) -> list[Gain]:
    """All training gains, and all shield gains, within each run, task and algorithm.

    A training gain is (algorithm, augmentation, no shield) minus (algorithm, no
    augmentation, no shield); a shield gain is (algorithm, augmentation, shield)
    minus (algorithm, augmentation, no shield). Pairs without a common seed are
    left out.
    """
    groups: dict[tuple[str, ...], dict[Policy, Summary]] = {}
    for s in summaries:
        policies = groups.setdefault((s.run, s.task, s.source, s.regime), {})
        policies[s.algorithm, s.augmentation, s.shield] = s
    return [
        gain
        for policies in groups.values()
        for axis, policy, baseline in _pairs(policies)
        if (gain := _gain(axis, policy, baseline)) is not None
    ]


def gains_markdown(summaries: Sequence[Summary]) -> str:
    """The gains as a Markdown table; empty if no two policies can be compared."""
    found = gains(summaries)
    if not found:
        return ""
    axes = axis_columns(summaries)
    axes = {name: axes[name] for name in ("run", "task", "logs", "algorithm") if name in axes}
    rows = [
        [
            *(cell(gain.policy) for cell in axes.values()),
            gain.axis,
            *_contrast(gain),
            f"{gain.seeds} x {gain.episodes}",
            _signed(gain.cost, 1),
            _signed(gain.episode_return, 2),
        ]
        for gain in found
    ]
    header = [*axes, "gain of", "difference", "both with"]
    text_columns = len(header)
    header += ["seeds x episodes", "mean cost", "mean return"]
    return markdown_table(header, rows, text_columns=text_columns)


def _pairs(
    policies: dict[Policy, Summary],
) -> list[tuple[str, Summary, Summary]]:
    """Axis, policy and baseline; for each algorithm training gains first."""
    found = []
    for algorithm in sorted({key[0] for key in policies}):
        pairs = [
            ("training", (algorithm, augmentation, "none"), (algorithm, "none", "none"))
            for augmentation in AUGMENTATIONS
            if augmentation != "none"
        ]
        pairs += [
            ("shield", (algorithm, augmentation, shield), (algorithm, augmentation, "none"))
            for augmentation in AUGMENTATIONS
            for shield in SHIELDS
            if shield != "none"
        ]
        found += [
            (axis, policies[first], policies[second])
            for axis, first, second in pairs
            if first in policies and second in policies
        ]
    return found


def _gain(axis: str, policy: Summary, baseline: Summary) -> Gain | None:
    seeds = sorted(set(policy.seed_values) & set(baseline.seed_values))
    if not seeds:
        return None
    episodes = min(policy.episodes, baseline.episodes)

    def paired(summary: Summary, scores: np.ndarray) -> np.ndarray:
        rows = [summary.seed_values.index(seed) for seed in seeds]
        return scores[rows, :episodes]

    return Gain(
        axis,
        policy,
        baseline,
        len(seeds),
        episodes,
        paired_bootstrap(paired(policy, policy.costs), paired(baseline, baseline.costs)),
        paired_bootstrap(paired(policy, policy.returns), paired(baseline, baseline.returns)),
    )


def _contrast(gain: Gain) -> tuple[str, str]:
    """What differs between the two policies, and what they share."""
    if gain.axis == "training":
        first, second = gain.policy.augmentation, gain.baseline.augmentation
        return f"augmentation {first} - {second}", f"shield {gain.policy.shield}"
    shields = f"shield {gain.policy.shield} - {gain.baseline.shield}"
    return shields, f"augmentation {gain.policy.augmentation}"


def _signed(interval: Interval, digits: int) -> str:
    # Adding zero to the rounded value turns -0.0 into 0.0.
    point, low, high = (f"{round(value, digits) + 0.0:+.{digits}f}" for value in interval)
    return f"{point} [{low}, {high}]"
