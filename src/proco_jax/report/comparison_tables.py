"""The tables of a comparison: columns and cells, as Markdown and as CSV."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proco_jax.common.statistics import Interval
from proco_jax.evaluation.results import COLUMNS, Row, policy_of
from proco_jax.report.comparison import ALL_TASKS
from proco_jax.report.gains import GAINS_CAPTION, contrast_words, signed
from proco_jax.report.html import Cell, Table
from proco_jax.report.tables import csv_table, logs_name, markdown_table, short_task

ABSENT = "-"

POLICIES_CAPTION = (
    "One row per policy, at its last checkpoint, whatever its scores. Mean and IQM (interquartile "
    "mean) over all episodes of all seeds, and shares of episodes [95% stratified bootstrap "
    "interval: seeds, and within each its episodes, drawn with replacement]. R is the normalized "
    "mean return (DSRL's references), C the mean cost / cost limit. Episodes within the limit: "
    "share of episodes whose cost is at most the limit. Runs within the limit: number of seeds "
    "whose mean cost is at most the limit [95% Wilson interval of their share]. A policy without "
    "augmentation is evaluated under the shield of the same algorithm trained with proco (or "
    "control). A dash stands for what was not measured."
)
IMPROVEMENT_CAPTION = (
    "Probability that a run (the mean of a seed's episodes) of an algorithm trained with proco is "
    "better than a run of the same algorithm trained otherwise, under the same shield: lower cost, "
    "higher return, ties count half [95% stratified bootstrap interval]. 0.5 means no difference."
)
_LIMITED = (
    "return_mean",
    "return_iqm",
    "cost_mean",
    "cost_iqm",
    "normalized_return",
    "normalized_cost",
    "episodes_within_limit",
    "runs_within_limit",
    "violation_free",
)


def comparison_tables(content: Mapping[str, Any]) -> list[Table]:
    """Policies, gains and probabilities of improvement, in this order; tables without rows are not.

    Args:
      content: of a `Comparison`.
    """
    found = [_policies(content), _gains(content), _improvement(content)]
    return [table for table in found if table.rows]


def comparison_markdown(content: Mapping[str, Any], title: str) -> str:
    """Findings, tables and provenance as Markdown."""
    lines = [f"# {title}\n"]
    lines += [f"- {finding['text']}" for finding in content["findings"]]
    lines += ["", *(f"{sentence}\n" for sentence in provenance_sentences(content))]
    for table in comparison_tables(content):
        rows = [[cell.text for cell in row] for row in table.rows]
        text = markdown_table(table.header, rows, text_columns=table.text_columns)
        lines += [f"## {table.title}\n", text, f"{table.caption}\n"]
    return "\n".join(lines)


def policies_csv(content: Mapping[str, Any]) -> str:
    """One line per policy; an interval fills three columns, what is missing stays empty."""
    names = ["run", "task", "source", "regime", "cost_limit", "algorithm", "augmentation", "shield"]
    names += ["status", "step", "seeds", "missing_seeds", "episodes"]
    header = [*names, "return_std", "cost_std", "meets_limit"]
    header += [f"{name}{part}" for name in _LIMITED for part in ("", "_low", "_high")]
    lines = []
    for entry in content["policies"]:
        line = [_plain(entry[name]) for name in (*names, "return_std", "cost_std", "meets_limit")]
        for name in _LIMITED:
            interval = entry[name] or dict.fromkeys(("point", "low", "high"))
            line += [_plain(interval[part]) for part in ("point", "low", "high")]
        lines.append(line)
    return csv_table(header, lines)


def runs_csv(rows: Sequence[Row]) -> str:
    """One line per row of results, without the scores of single episodes."""
    lines = [[_plain(row.get("run", "")), *(_plain(row[name]) for name in COLUMNS)] for row in rows]
    return csv_table(["run", *COLUMNS], lines)


def provenance_sentences(content: Mapping[str, Any]) -> list[str]:
    """How the comparison was made: sentences for a reader who wants to repeat it."""
    made = content["provenance"]
    counts = ", ".join(str(count) for count in made["episodes_per_seed"]) or "no"
    sentences = [
        f"{made['policies']} policies, seeds {_listed(made['seeds'])}, {counts} episodes per seed "
        f"and policy ({made['episodes']:,} in all), trained for {_listed(made['steps'])} steps."
    ]
    for key, words in (("command", "Command"), ("commits", "Commit"), ("devices", "Devices")):
        if made.get(key):
            value = made[key] if isinstance(made[key], str) else _listed(made[key])
            sentences.append(f"{words}: {value}.")
    for key, words in (("machine", "This page was written on"), ("time", "Wall time")):
        if made.get(key):
            sentences.append(f"{words}: {made[key]}.")
    if made["versions"]:
        versions = (f"{name} {_listed(found)}" for name, found in made["versions"].items())
        sentences.append(f"Versions: {', '.join(versions)}.")
    for setting in content["settings"]:
        logs = setting["logs"]
        if logs is not None:
            sentences.append(
                f"The {setting['regime']} logs of {short_task(setting['task'])} have "
                f"{logs['episodes']} episodes with a mean return of {logs['return_mean']:.2f} and "
                f"a mean cost of {logs['cost_mean']:.1f}."
            )
    missing = [entry for entry in content["policies"] if entry["status"] != "complete"]
    if missing:
        whole = sum(entry["status"] == "missing" for entry in missing)
        sentences.append(
            f"Incomplete: of {len(content['policies'])} policies, {whole} are missing and "
            f"{len(missing) - whole} lack some of their seeds."
        )
    sentences += [f"{name}: {note}" for name, note in content["notes"].items()]
    return sentences


def interval_cell(interval: Mapping[str, float] | None, digits: int, scale: float = 1.0) -> Cell:
    """An interval, e.g. `8.0 [6.1, 9.5]`, sorted by its point."""
    if interval is None:
        return Cell(ABSENT)
    point, low, high = (f"{scale * interval[n]:.{digits}f}" for n in ("point", "low", "high"))
    return Cell(f"{point} [{low}, {high}]", interval["point"])


_Columns = Mapping[str, Callable[[Mapping[str, Any]], Cell]]

_SETTING: _Columns = {
    "run": lambda e: Cell(e["run"]),
    "task": lambda e: Cell(short_task(e["task"])),
    "logs": lambda e: Cell(
        ALL_TASKS if e["source"] == ALL_TASKS else logs_name(e["source"], e["regime"])
    ),
    "cost limit": lambda e: (
        Cell(ALL_TASKS) if e["cost_limit"] is None else Cell(f"{e['cost_limit']:g}")
    ),
}
_POLICY: _Columns = {
    "algorithm": lambda e: Cell(e["algorithm"]),
    "augmentation": lambda e: Cell(e["augmentation"]),
    "shield": lambda e: Cell(e["shield"]),
}
_STATISTICS: _Columns = {
    "seeds x episodes": lambda e: _seeds(e),
    "return, mean": lambda e: interval_cell(e["return_mean"], 2),
    "return, IQM": lambda e: interval_cell(e["return_iqm"], 2),
    "cost, mean": lambda e: interval_cell(e["cost_mean"], 1),
    "cost, IQM": lambda e: interval_cell(e["cost_iqm"], 1),
    "R": lambda e: interval_cell(e["normalized_return"], 2),
    "C": lambda e: interval_cell(e["normalized_cost"], 2),
    "episodes within limit, %": lambda e: interval_cell(e["episodes_within_limit"], 0, 100.0),
    "runs within limit": lambda e: _runs(e),
    "violation-free, %": lambda e: interval_cell(e["violation_free"], 0, 100.0),
}


def _policies(content: Mapping[str, Any]) -> Table:
    entries = content["policies"]
    text = {**_setting_columns(entries), **_POLICY}
    return _table("Policies", POLICIES_CAPTION, text, _STATISTICS, entries)


def _gains(content: Mapping[str, Any]) -> Table:
    entries = content["gains"]
    text: _Columns = {
        **_setting_columns(entries),
        "algorithm": _POLICY["algorithm"],
        "gain of": lambda e: Cell(e["axis"]),
        "difference": lambda e: Cell(_contrast(e)[0]),
        "both with": lambda e: Cell(_contrast(e)[1]),
    }
    numbers: _Columns = {
        "seeds x episodes": lambda e: (
            Cell(f"{e['seeds']} x {e['episodes']}", e["seeds"]) if e["seeds"] else Cell(ABSENT)
        ),
        "mean cost": lambda e: _difference_cell(e, "cost", 1, better=-1),
        "mean return": lambda e: _difference_cell(e, "return", 2, better=1),
    }
    title = "Gains of training, knowledge and shield"
    return _table(title, GAINS_CAPTION, text, numbers, entries)


def _improvement(content: Mapping[str, Any]) -> Table:
    entries = content["improvement"]
    text: _Columns = {
        **_setting_columns(entries),
        "algorithm": _POLICY["algorithm"],
        "compared": lambda e: Cell(f"proco over {e['baseline']}"),
        "shield": _POLICY["shield"],
    }
    numbers: _Columns = {
        "P(lower cost)": lambda e: _probability_cell(e["cost"]),
        "P(higher return)": lambda e: _probability_cell(e["return"]),
    }
    return _table("Probability of improvement", IMPROVEMENT_CAPTION, text, numbers, entries)


def _table(
    title: str,
    caption: str,
    text: _Columns,
    numbers: _Columns,
    entries: Sequence[Mapping[str, Any]],
) -> Table:
    columns = {**text, **numbers}
    rows = [[cell(entry) for cell in columns.values()] for entry in entries]
    return Table(title, caption, tuple(columns), rows, len(text))


def _setting_columns(entries: Sequence[Mapping[str, Any]]) -> _Columns:
    """The columns of the setting, the run among them only where one has a name."""
    named = any(entry["run"] for entry in entries)
    return {name: cell for name, cell in _SETTING.items() if named or name != "run"}


def _seeds(entry: Mapping[str, Any]) -> Cell:
    found, missing = len(entry["seeds"]), len(entry["missing_seeds"])
    if not found:
        return Cell("missing")
    of = f" of {found + missing}" if missing else ""
    return Cell(f"{found}{of} x {entry['episodes']}", found)


def _runs(entry: Mapping[str, Any]) -> Cell:
    share = entry["runs_within_limit"]
    if share is None:
        return Cell(ABSENT)
    count = len(entry["seeds"])
    low, high = f"{share['low']:.2f}", f"{share['high']:.2f}"
    return Cell(f"{round(share['point'] * count)} of {count} [{low}, {high}]", share["point"])


def _contrast(entry: Mapping[str, Any]) -> tuple[str, str]:
    return contrast_words(entry["axis"], policy_of(entry["policy"]), policy_of(entry["baseline"]))


def _difference_cell(entry: Mapping[str, Any], name: str, digits: int, better: int) -> Cell:
    """A difference, highlighted where its interval excludes 0; `better` is the sign that is.

    The interval of a single episode has no width, and tells nothing.
    """
    interval = entry[name]
    if interval is None:
        return Cell(ABSENT)
    several = entry["seeds"] * entry["episodes"] > 1
    tone = _tone(better * interval["low"], better * interval["high"]) if several else ""
    return Cell(signed(Interval(**interval), digits), interval["point"], tone)


def _probability_cell(interval: Mapping[str, float] | None) -> Cell:
    """A probability, highlighted where its interval excludes a half."""
    cell = interval_cell(interval, 2)
    if interval is None:
        return cell
    return cell._replace(tone=_tone(interval["low"] - 0.5, interval["high"] - 0.5))


def _tone(one: float, other: float) -> str:
    return "better" if min(one, other) > 0 else "worse" if max(one, other) < 0 else ""


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values) or "none"


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return str(value)
