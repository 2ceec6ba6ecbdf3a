"""Writes the files of a comparison: JSON, CSV, Markdown, pictures, and one HTML page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proco_jax.common.checksums import read_json
from proco_jax.common.files import write_text
from proco_jax.evaluation.results import Row
from proco_jax.report import comparison_pictures as pictures
from proco_jax.report.comparison import ALL_TASKS, Comparison, LogsReference, setting_of
from proco_jax.report.comparison_page import comparison_page
from proco_jax.report.comparison_tables import comparison_markdown, policies_csv, runs_csv
from proco_jax.report.pictures import results_picture
from proco_jax.report.tables import setting_title

JSON, CSV, RUNS = "comparison.json", "comparison.csv", "runs.csv"
MARKDOWN, HTML = "comparison.md", "comparison.html"
PICTURES = "comparison_pictures"


def write_comparison(
    folder: Path,
    comparison: Comparison,
    rows: Sequence[Row],
    title: str,
    made: Mapping[str, str] | None = None,
) -> Path:
    """Writes all files of a comparison, each atomically.

    Args:
      folder: where to write; it is made if it does not exist.
      comparison: of the rows.
      rows: as for `comparison.compare`.
      title: of the page.
      made: how it was made, in words: `command`, `machine`, `time`.

    Returns:
      The path of the HTML page.
    """
    content = write_tables(folder, comparison, rows, title, made)
    drawn = _draw(folder / PICTURES, comparison)
    write_text(folder / HTML, comparison_page(content, title, drawn))
    return folder / HTML


def write_tables(
    folder: Path,
    comparison: Comparison,
    rows: Sequence[Row],
    title: str,
    made: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Writes the files of a comparison that need no pictures: JSON, CSV and Markdown.

    Returns:
      The content of the JSON file.
    """
    content = comparison.content
    content = content | {"title": title, "provenance": {**content["provenance"], **(made or {})}}
    write_text(folder / JSON, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(folder / CSV, policies_csv(content))
    write_text(folder / RUNS, runs_csv(rows))
    write_text(folder / MARKDOWN, comparison_markdown(content, title))
    return content


def read_logs(workdir: Path) -> LogsReference | None:
    """Return and cost of the logs of a run, from its `dataset.json`; None if it has none.

    Raises:
      ValueError: if the file is damaged.
    """
    path = workdir / "dataset.json"
    card = read_json(path)
    if card is None:
        return None
    try:
        kept = card["after"]
        mean_return, mean_cost = (float(kept[name]["mean"]) for name in ("return", "cost"))
        return LogsReference(mean_return, mean_cost, int(kept["episodes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a dataset card of this version: {error!r}") from error


def _draw(folder: Path, comparison: Comparison) -> dict[str, list[Path]]:
    """Draws the pictures of what is measured; paths by the keys of their captions."""
    drawn: dict[str, list[Path]] = {}
    content, measured = comparison.content, comparison.summaries
    for i, (setting, summaries) in enumerate(measured.items()):
        own = f"_{i + 1}" if len(measured) > 1 else ""
        path = folder / f"returns_and_costs{own}.png"
        drawn.setdefault("returns_and_costs", []).append(results_picture(path, summaries))
        if any(setting_of(gain) == setting and gain["cost"] for gain in content["gains"]):
            path = folder / f"gains{own}.png"
            pictures.gains_picture(path, content["gains"], setting)
            drawn.setdefault("gains", []).append(path)
    for i, (name, entries) in enumerate(_improvement_groups(content).items()):
        path = folder / f"improvement_{i + 1}.png"
        pictures.improvement_picture(path, entries, name)
        drawn.setdefault("improvement", []).append(path)
    for i, profile in enumerate(content["profiles"]):
        own = f"_{i + 1}" if len(content["profiles"]) > 1 else ""
        for quantity in ("cost", "return"):
            path = folder / f"profile_{quantity}{own}.png"
            pictures.profiles_picture(path, profile, quantity)
            drawn.setdefault(f"profile_{quantity}", []).append(path)
    return drawn


def _improvement_groups(content: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Measured probabilities without a shield; of all tasks together where there are several."""
    entries = [one for one in content["improvement"] if one["shield"] == "none"]
    together = [one for one in entries if one["task"] == ALL_TASKS]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in together or entries:
        task = "all settings" if entry["task"] == ALL_TASKS else entry["task"]
        name = setting_title(entry["run"], task, "no shield")
        groups.setdefault(name, []).append(entry)
    return {name: mine for name, mine in groups.items() if any(one["cost"] for one in mine)}
