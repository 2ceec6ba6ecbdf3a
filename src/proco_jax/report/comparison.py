"""The comparison of many policies: every statistic of it, from rows of results, as JSON data.

Input is a list of result rows as `evaluation.results.load_rows` returns them (exactly its `KEYS`),
of one or several results files: any number of tasks, kinds of logs, cost limits, algorithms,
augmentations, shields and seeds. A row may carry one more key, `run`: the name of what tells it
apart from rows that agree in all of these, e.g. the value of a hyperparameter. The last training
step of each trained policy counts, whatever its scores are. Rows that are expected but not there
are named by mappings with the same keys except the scores (`EXPECTED`); their policies appear as
missing, and nothing is estimated in their place.

`compare` returns a `Comparison`; its `content` is plain JSON data, from which
`comparison_tables` (Markdown, CSV), `comparison_pictures` and `comparison_page` (HTML) are made,
and which `comparison_files.write_comparison` writes with all of them.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from proco_jax.common.statistics import (
    Interval,
    performance_profile,
    probability_of_improvement,
)
from proco_jax.evaluation.results import AUGMENTATIONS, SHIELDS, Policy, Row, policy_of, rounded
from proco_jax.report.gains import contrasts, paired_gain
from proco_jax.report.tables import Summary, normalized, summarize

# Keys of a mapping that names an expected row; `run` may be left out.
EXPECTED = ("task", "source", "regime", "cost_limit", "algorithm", "augmentation", "shield", "seed")
AXES = ("training", "knowledge", "shield")
ALL_TASKS = "all"
_PROFILE_POINTS = 33


class Setting(NamedTuple):
    """What policies must share to be compared with each other."""

    run: str
    task: str
    source: str
    regime: str
    cost_limit: float


def setting_of(row: Mapping[str, Any]) -> Setting:
    """The setting of a row of results, or of any mapping with its keys."""
    limit = float(row["cost_limit"])
    return Setting(row.get("run", ""), row["task"], row["source"], row["regime"], limit)


class LogsReference(NamedTuple):
    """Mean return and mean cost of the episodes that the policies were trained on, and how many."""

    return_mean: float
    cost_mean: float
    episodes: int


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """The statistics of a comparison.

    Attributes:
      content: JSON data; all intervals are `{"point", "low", "high"}` or None where rows are
        missing. `settings`: what was compared, with the logs' mean return and cost if known.
        `findings`: a sentence and its numbers for each of `AXES`. `policies`: one entry per policy
        with `status` complete, partial or missing. `gains`: differences between two policies that
        differ in one axis. `improvement`: probabilities that a run with PROCO is better than one
        without (or than its control). `profiles`: shares of episodes up to thresholds of the
        normalized cost, and from thresholds of the normalized return on. `provenance`: commits,
        versions, devices, seeds and episodes of the rows. `notes`: remarks on algorithms.
      summaries: of the policies that have rows, by setting.
    """

    content: dict[str, Any]
    summaries: Mapping[Setting, Sequence[Summary]]


def compare(
    rows: Sequence[Row],
    *,
    expected: Sequence[Mapping[str, Any]] = (),
    logs: Mapping[Setting, LogsReference] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Comparison:
    """All statistics of a comparison.

    Args:
      rows: see the module's docstring; may be empty if rows are expected.
      expected: mappings with the keys `EXPECTED`, one for each row that a complete comparison has.
      logs: of what the policies were trained on, where it is known.
      notes: remarks by algorithm, e.g. why it has no rows.

    Raises:
      ValueError: if there is neither a row nor an expected one, or two rows have the same setting,
        policy, seed and step.
    """
    if not rows and not expected:
        raise ValueError("a comparison needs rows of results, found none, and none are expected")
    _check_distinct(rows)
    summaries: dict[Setting, dict[Policy, Summary]] = {}
    for setting, mine in _by_setting(rows).items():
        found = summarize(mine, run=setting.run)
        summaries[setting] = {summary.policy: summary for summary in found}
    seeds = _expected_seeds(expected)
    settings = list(dict.fromkeys([*seeds, *summaries]))
    policies = {
        setting: _ordered({*seeds.get(setting, {}), *summaries.get(setting, {})})
        for setting in settings
    }
    gains = [
        entry
        for setting in settings
        for entry in _gains(setting, policies[setting], summaries.get(setting, {}))
    ]
    entries = [
        _policy_entry(
            setting,
            policy,
            summaries.get(setting, {}).get(policy),
            seeds.get(setting, {}).get(policy, set()),
        )
        for setting in settings
        for policy in policies[setting]
    ]
    logs = logs or {}
    content = {
        "settings": [_setting_entry(setting, logs.get(setting)) for setting in settings],
        "findings": [_finding(axis, gains, entries, logs) for axis in AXES],
        "policies": entries,
        "gains": gains,
        "improvement": _improvements(settings, policies, summaries),
        "profiles": _profiles(settings, policies, summaries),
        "provenance": _provenance(rows, summaries),
        "notes": dict(notes or {}),
    }
    return Comparison(content, {s: list(found.values()) for s, found in summaries.items()})


def expected_rows(
    task: str,
    source: str,
    regime: str,
    cost_limit: float,
    policies: Iterable[Policy],
    seeds: Iterable[int],
    run: str = "",
) -> list[dict[str, Any]]:
    """The expected rows of policies (algorithm, augmentation, shield) in one setting."""
    shared = {"run": run, "task": task, "source": source, "regime": regime}
    seeds = list(seeds)
    return [
        {
            **shared,
            "cost_limit": cost_limit,
            "algorithm": algorithm,
            "augmentation": augmentation,
            "shield": shield,
            "seed": seed,
        }
        for algorithm, augmentation, shield in policies
        for seed in seeds
    ]


def _by_setting(rows: Sequence[Row]) -> dict[Setting, list[Row]]:
    groups: dict[Setting, list[Row]] = {}
    for row in rows:
        groups.setdefault(setting_of(row), []).append(row)
    return groups


def _by_run(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting.run, []).append(setting)
    return groups


def _ordered(policies: Iterable[Policy]) -> list[Policy]:
    """By algorithm, then from the plain policy to the most protected one."""
    return sorted(
        policies,
        key=lambda p: (p[0], -AUGMENTATIONS.index(p[1]), -SHIELDS.index(p[2])),
    )


def _check_distinct(rows: Sequence[Row]) -> None:
    seen = set()
    for row in rows:
        key = (setting_of(row), policy_of(row), row["seed"], row["step"])
        if key in seen:
            algorithm, augmentation, shield = policy_of(row)
            raise ValueError(
                f"two rows of {algorithm}, augmentation {augmentation}, shield {shield}, seed "
                f"{row['seed']} on {row['task']} at step {row['step']}: expected one; give the "
                "rows of different runs different values of the key `run`"
            )
        seen.add(key)


def _expected_seeds(
    expected: Sequence[Mapping[str, Any]],
) -> dict[Setting, dict[Policy, set[int]]]:
    found: dict[Setting, dict[Policy, set[int]]] = {}
    for row in expected:
        found.setdefault(setting_of(row), {}).setdefault(policy_of(row), set()).add(row["seed"])
    return found


def _setting_entry(setting: Setting, logs: LogsReference | None) -> dict[str, Any]:
    return {**setting._asdict(), "logs": None if logs is None else logs._asdict()}


def _policy_entry(
    setting: Setting, policy: Policy, summary: Summary | None, seeds: set[int]
) -> dict[str, Any]:
    found = set() if summary is None else set(summary.seed_values)
    missing = sorted(seeds - found)
    status = "missing" if summary is None else "partial" if missing else "complete"
    return {
        **setting._asdict(),
        **_policy_names(policy),
        "status": status,
        "seeds": sorted(found),
        "missing_seeds": missing,
        **{
            name: None if summary is None else statistic(summary)
            for name, statistic in _STATISTICS.items()
        },
    }


def _policy_names(policy: Policy) -> dict[str, str]:
    return dict(zip(("algorithm", "augmentation", "shield"), policy, strict=True))


_STATISTICS: dict[str, Callable[[Summary], Any]] = {
    "step": lambda s: s.step,
    "episodes": lambda s: s.episodes,
    "return_iqm": lambda s: _json(s.episode_return),
    "return_mean": lambda s: _json(s.mean_return),
    "return_std": lambda s: rounded(s.return_std),
    "cost_iqm": lambda s: _json(s.cost),
    "cost_mean": lambda s: _json(s.mean_cost),
    "cost_std": lambda s: rounded(s.cost_std),
    "normalized_return": lambda s: _json(Interval(*normalized(s.task, np.array(s.mean_return)))),
    "normalized_cost": lambda s: _json(Interval(*(x / s.cost_limit for x in s.mean_cost))),
    "episodes_within_limit": lambda s: _json(s.episodes_within_limit),
    "runs_within_limit": lambda s: _json(s.runs_within_limit),
    "violation_free": lambda s: _json(s.violation_free_share),
    "meets_limit": lambda s: bool(s.mean_cost.point <= s.cost_limit),
}


def _gains(
    setting: Setting, policies: Sequence[Policy], summaries: Mapping[Policy, Summary]
) -> list[dict[str, Any]]:
    """An entry for each contrast; its numbers are None where one side is missing."""
    entries = []
    for axis, policy, baseline in contrasts(policies):
        one, other = summaries.get(policy), summaries.get(baseline)
        found = None if one is None or other is None else paired_gain(axis, one, other)
        entries.append(
            {
                **setting._asdict(),
                "algorithm": policy[0],
                "axis": axis,
                "policy": _policy_names(policy),
                "baseline": _policy_names(baseline),
                "seeds": 0 if found is None else found.seeds,
                "episodes": 0 if found is None else found.episodes,
                "cost": None if found is None else _json(found.cost),
                "return": None if found is None else _json(found.episode_return),
            }
        )
    return entries


def _improvements(
    settings: Sequence[Setting],
    policies: Mapping[Setting, Sequence[Policy]],
    summaries: Mapping[Setting, Mapping[Policy, Summary]],
) -> list[dict[str, Any]]:
    """Of PROCO over no augmentation and over its control, under each shield.

    In each setting, and over all settings of a run where there are several.
    """
    entries = []
    groups = [(setting._asdict(), [setting]) for setting in settings]
    for run, mine in _by_run(settings).items():
        if len(mine) > 1:
            whole = dict.fromkeys(Setting._fields[1:], ALL_TASKS) | {"run": run, "cost_limit": None}
            groups.append((whole, mine))
    for names, mine in groups:
        for policy in _ordered({p for setting in mine for p in policies[setting]}):
            for baseline in ("none", "control"):
                other = policy[0], baseline, policy[2]
                if policy[1] == "proco" and any(other in policies[s] for s in mine):
                    pairs = [
                        (found[policy], found[other])
                        for setting in mine
                        if {policy, other} <= (found := summaries.get(setting, {})).keys()
                    ]
                    entries.append(_improvement(names, policy, baseline, pairs))
    return entries


def _improvement(
    names: Mapping[str, Any],
    policy: Policy,
    baseline: str,
    pairs: Sequence[tuple[Summary, Summary]],
) -> dict[str, Any]:
    cost = episode_return = None
    if pairs:
        costs = [one.costs for one, _ in pairs], [other.costs for _, other in pairs]
        returns = [one.returns for one, _ in pairs], [other.returns for _, other in pairs]
        cost = _json(probability_of_improvement(*costs, lower_is_better=True))
        episode_return = _json(probability_of_improvement(*returns))
    return {
        **names,
        "algorithm": policy[0],
        "baseline": baseline,
        "shield": policy[2],
        "settings": len(pairs),
        "cost": cost,
        "return": episode_return,
    }


def _profiles(
    settings: Sequence[Setting],
    policies: Mapping[Setting, Sequence[Policy]],
    summaries: Mapping[Setting, Mapping[Policy, Summary]],
) -> list[dict[str, Any]]:
    """One entry for each run: profiles of each policy over all settings in which it has rows."""
    entries = []
    for run, mine in _by_run(settings).items():
        scores = {
            policy: [
                _normalized(summary)
                for setting in mine
                if (summary := summaries.get(setting, {}).get(policy)) is not None
            ]
            for policy in _ordered({p for setting in mine for p in policies[setting]})
        }
        present = [table for tables in scores.values() for table in tables]
        if not present:
            continue
        most = max(2.0, *(float(costs.max()) for costs, _ in present))
        low = min(float(returns.min()) for _, returns in present)
        high = max(float(returns.max()) for _, returns in present)
        # Rounded outwards, so that they cover all scores; 1 is the limit itself.
        costs = np.append([0.0, 1.0], np.geomspace(0.1, most, _PROFILE_POINTS - 2))
        costs = np.unique(np.ceil(costs * 1e4) / 1e4)
        returns = np.unique(np.floor(np.linspace(low, high, _PROFILE_POINTS) * 1e4) / 1e4)
        entries.append(
            {
                "run": run,
                "cost_thresholds": costs.tolist(),
                "return_thresholds": returns.tolist(),
                "policies": [
                    {**_policy_names(policy), "settings": len(tables)}
                    | _profile(tables, costs, returns)
                    for policy, tables in scores.items()
                ],
            }
        )
    return entries


def _normalized(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Normalized costs and returns `[S, E]` of a policy."""
    return summary.costs / summary.cost_limit, normalized(summary.task, summary.returns)


def _profile(
    tables: Sequence[tuple[np.ndarray, np.ndarray]], costs: np.ndarray, returns: np.ndarray
) -> dict[str, Any]:
    if not tables:
        return {"cost": None, "return": None}
    below = performance_profile([cost for cost, _ in tables], costs, resamples=500)
    # Shares of returns from a threshold on: those of negated returns up to the negated one.
    above = performance_profile([-found for _, found in tables], -returns[::-1], resamples=500)
    names = ("point", "low", "high")
    return {
        "cost": {n: _rounded_list(v) for n, v in zip(names, below, strict=True)},
        "return": {n: _rounded_list(v[::-1]) for n, v in zip(names, above, strict=True)},
    }


def _finding(
    axis: str,
    gains: Sequence[Mapping[str, Any]],
    policies: Sequence[Mapping[str, Any]],
    logs: Mapping[Setting, LogsReference],
) -> dict[str, Any]:
    """What training, knowledge or the shield gives: numbers, and the sentence that states them.

    Training is PROCO against no augmentation, and the shield the strongest one against none, for
    the policies trained with PROCO (or, if there are none, with the strongest augmentation).
    """
    planned = main_gains([gain for gain in gains if gain["axis"] == axis])
    done = [gain for gain in planned if gain["cost"] is not None]
    costs, returns = [gain["cost"] for gain in done], [gain["return"] for gain in done]
    # The interval of a single episode has no width, and tells nothing.
    several = [gain for gain in done if gain["seeds"] * gain["episodes"] > 1]
    numbers: dict[str, Any] = {
        "axis": axis,
        "planned": len(planned),
        "compared": len(done),
        "cost_lower": sum(cost["point"] < 0 for cost in costs),
        "cost_lower_confident": sum(gain["cost"]["high"] < 0 for gain in several),
        "cost_higher_confident": sum(gain["cost"]["low"] > 0 for gain in several),
        "return_lower_confident": sum(gain["return"]["high"] < 0 for gain in several),
        "cost_range": _range(costs),
        "return_range": _range(returns),
    }
    by_policy = {_entry_key(entry): entry for entry in policies}
    measured = [
        (by_policy[_gain_key(gain, "policy")], by_policy[_gain_key(gain, "baseline")])
        for gain in done
    ]
    numbers["meet_limit"] = sum(bool(one["meets_limit"]) for one, _ in measured)
    numbers["baseline_meets_limit"] = sum(bool(other["meets_limit"]) for _, other in measured)
    known = [one for one, _ in measured if setting_of(one) in logs]
    numbers["return_of_logs_kept"] = (
        sum(one["return_mean"]["point"] >= logs[setting_of(one)].return_mean for one in known)
        if known and len(known) == len(measured)
        else None
    )
    return numbers | {"text": _sentence(axis, planned, numbers)}


def main_gains(gains: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the gains of one axis, those of the strongest policy: one contrast, for all algorithms.

    PROCO if there is a gain of it, else its control; the planner if there is one, else the filter.

    Args:
      gains: of the content of a comparison, all of one axis.
    """

    def rank(gain: Mapping[str, Any]) -> tuple[int, int]:
        policy = gain["policy"]
        return AUGMENTATIONS.index(policy["augmentation"]), SHIELDS.index(policy["shield"])

    strongest = min(map(rank, gains), default=None)
    return [gain for gain in gains if rank(gain) == strongest]


def _entry_key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return setting_of(entry), policy_of(entry)


def _gain_key(gain: Mapping[str, Any], side: str) -> tuple[Any, ...]:
    return setting_of(gain), policy_of(gain[side])


_CONTRAST_NAMES = {
    "training": "Training on generated costs and imagined transitions ({first}) against the logs "
    "alone ({second}), without a shield",
    "knowledge": "Knowledge of what is unsafe ({first}) against its control without knowledge "
    "({second}), without a shield",
    "shield": "The shield {first} against none, for policies trained with {augmentation}",
}


def _sentence(axis: str, planned: Sequence[Mapping[str, Any]], numbers: Mapping[str, Any]) -> str:
    if not planned:
        return f"{axis.capitalize()}: not part of this comparison."
    first = planned[0]
    key = "shield" if axis == "shield" else "augmentation"
    lead = _CONTRAST_NAMES[axis].format(
        first=first["policy"][key],
        second=first["baseline"][key],
        augmentation=first["policy"]["augmentation"],
    )
    several = len({setting_of(gain) for gain in planned}) > 1
    unit = "pair of algorithm and task" if several else "algorithm"
    units = "pairs of algorithm and task" if several else "algorithms"
    total, done = numbers["planned"], numbers["compared"]
    if done == 0:
        return f"{lead}: not measured yet (0 of {total} {units})."
    of = f"{done} {unit if done == 1 else units}"
    missing = "" if done == total else f" ({total - done} of {total} are missing)"
    low, high = numbers["cost_range"]
    return_low, return_high = numbers["return_range"]
    text = (
        f"{lead}: of {of}{missing}, the mean cost is lower for {numbers['cost_lower']}, "
        f"with confidence for {numbers['cost_lower_confident']}; it is higher with confidence for "
        f"{numbers['cost_higher_confident']}. The differences in mean cost are {low:+.1f} to "
        f"{high:+.1f}, those in mean return {return_low:+.2f} to {return_high:+.2f}. The cost "
        f"limit is met by {numbers['meet_limit']} of the former and "
        f"{numbers['baseline_meets_limit']} of the latter."
    )
    kept = numbers["return_of_logs_kept"]
    if kept is not None:
        text += f" Of the former, {kept} have at least the mean return of their training logs."
    return text


def _provenance(
    rows: Sequence[Row], summaries: Mapping[Setting, Mapping[Policy, Summary]]
) -> dict[str, Any]:
    found = [summary for mine in summaries.values() for summary in mine.values()]
    versions: dict[str, list[str]] = {}
    for row in rows:
        for name, version in row["versions"].items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    return {
        "commits": sorted({row["commit"] for row in rows}),
        "devices": sorted({row["device"] for row in rows}),
        "versions": versions,
        "seeds": sorted({row["seed"] for row in rows}),
        "steps": sorted({summary.step for summary in found}),
        "episodes_per_seed": sorted({summary.episodes for summary in found}),
        "episodes": sum(summary.seeds * summary.episodes for summary in found),
        "policies": len(found),
    }


def _range(intervals: Sequence[Mapping[str, float]]) -> list[float] | None:
    points = [interval["point"] for interval in intervals]
    return [min(points), max(points)] if points else None


def _json(interval: Interval) -> dict[str, float]:
    return {name: rounded(value) for name, value in interval._asdict().items()}


def _rounded_list(values: np.ndarray) -> list[float]:
    return [rounded(value) for value in values]
