"""What training, knowledge and the shield contribute, as paired differences between policies."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from proco_jax.common.statistics import Interval, paired_bootstrap
from proco_jax.evaluation.results import AUGMENTATIONS, SHIELDS, Policy
from proco_jax.report.tables import Summary, axis_columns, markdown_table

GAINS_CAPTION = (
    "Differences between two policies that differ in one axis only, each at its last checkpoint. "
    "*Training* compares augmentations without a shield, *knowledge* compares the augmentation "
    "proco with control, which lacks it, *shield* compares shields of the same trained policy. "
    "Mean per episode [95% bootstrap interval: seeds, and within each its episodes, drawn with "
    "replacement, the same for both policies]. A negative difference in cost is an improvement, "
    "a positive difference in return is an improvement."
)


@dataclasses.dataclass(frozen=True)
class Gain:
    """The difference between two policies that differ in one axis.

    Attributes:
      axis: `training`, `knowledge` or `shield`, see `contrasts`.
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
    """The gains of all `contrasts`, within each run, task, kind of logs and cost limit.

    Pairs without a common seed are left out.
    """
    groups: dict[tuple[object, ...], dict[Policy, Summary]] = {}
    for s in summaries:
        policies = groups.setdefault((s.run, s.task, s.source, s.regime, s.cost_limit), {})
        policies[s.policy] = s
    return [
        found
        for policies in groups.values()
        for axis, policy, baseline in contrasts(policies)
        if (found := paired_gain(axis, policies[policy], policies[baseline])) is not None
    ]


def contrasts(policies: Iterable[Policy]) -> list[tuple[str, Policy, Policy]]:
    """Axis, policy and baseline of all pairs of policies that a gain compares.

    For each algorithm, as (augmentation, shield):

        training    (proco, none) - (none, none) and (control, none) - (none, none)
        knowledge   (proco, none) - (control, none)
        shield      (augmentation, shield) - (augmentation, none)
    """
    policies = set(policies)
    found = []
    for algorithm in sorted({policy[0] for policy in policies}):
        pairs = [
            ("training", (algorithm, augmentation, "none"), (algorithm, "none", "none"))
            for augmentation in AUGMENTATIONS
            if augmentation != "none"
        ]
        pairs.append(("knowledge", (algorithm, "proco", "none"), (algorithm, "control", "none")))
        pairs += [
            ("shield", (algorithm, augmentation, shield), (algorithm, augmentation, "none"))
            for augmentation in AUGMENTATIONS
            for shield in SHIELDS
            if shield != "none"
        ]
        found += [pair for pair in pairs if pair[1] in policies and pair[2] in policies]
    return found


def paired_gain(axis: str, policy: Summary, baseline: Summary) -> Gain | None:
    """The difference of two policies over the seeds and episodes that both have; None if none."""
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
            *contrast_words(gain.axis, gain.policy.policy, gain.baseline.policy),
            f"{gain.seeds} x {gain.episodes}",
            signed(gain.cost, 1),
            signed(gain.episode_return, 2),
        ]
        for gain in found
    ]
    header = [*axes, "gain of", "difference", "both with"]
    text_columns = len(header)
    header += ["seeds x episodes", "mean cost", "mean return"]
    return markdown_table(header, rows, text_columns=text_columns)


def contrast_words(axis: str, policy: Policy, baseline: Policy) -> tuple[str, str]:
    """What differs between the two policies of a contrast, and what they share."""
    if axis != "shield":
        return f"augmentation {policy[1]} - {baseline[1]}", f"shield {policy[2]}"
    return f"shield {policy[2]} - {baseline[2]}", f"augmentation {policy[1]}"


def signed(interval: Interval, digits: int) -> str:
    """A difference with its interval, e.g. `-8.0 [-9.5, -6.1]`."""
    # Adding zero to the rounded value turns -0.0 into 0.0.
    point, low, high = (f"{round(value, digits) + 0.0:+.{digits}f}" for value in interval)
    return f"{point} [{low}, {high}]"
