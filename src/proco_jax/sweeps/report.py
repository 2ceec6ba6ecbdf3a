"""The report of a sweep: what is done, raw rows, tables with intervals, curves, one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proco_jax.common.files import write_text
from proco_jax.report.comparison import Comparison, compare
from proco_jax.report.comparison_files import write_tables
from proco_jax.report.comparison_page import finding_sections
from proco_jax.report.comparison_tables import comparison_tables, provenance_sentences
from proco_jax.report.html import Section, bullets, page, picture_html, table_html
from proco_jax.report.pictures import RESULTS_CAPTION, results_picture
from proco_jax.report.tables import setting_title, short_task
from proco_jax.sweeps.curves import MOST_LINES, Curve, curves_json, draw_curves, sweep_curves
from proco_jax.sweeps.folder import Root
from proco_jax.sweeps.results import (
    all_expected,
    compared_rows,
    load_results,
    write_rows,
)
from proco_jax.sweeps.status import Progress, progress_lines, sweep_progress

FOLDER, HTML = "report", "sweep.html"
_PICTURES = "sweep_pictures"
# A page with more pictures of returns and costs cannot be read; the tables have all numbers.
_MOST_PICTURES = 12
_CURVE_CAPTION = (
    "Mean cost and mean return per episode over a hyperparameter, with 95% stratified bootstrap "
    "intervals; panels are shields, colors the trained policies and the values of other "
    f"hyperparameters, at most {MOST_LINES} of these."
)


def write_sweep_report(roots: Sequence[Root]) -> tuple[Path, list[str]]:
    """Writes the report of a sweep to the folder `report` of the first root.

    It may be called while the sweep runs: what is not done is named as missing.

    Args:
      roots: of one sweep, whose shares may lie in several folders.

    Returns:
      The path of the HTML page, and its progress in sentences.

    Raises:
      FileNotFoundError: if a root holds no sweep.
      ValueError: if the roots are those of different sweeps.
    """
    progress = sweep_progress(roots)
    results = load_results(progress)
    folder = roots[0].path / FOLDER
    write_rows(folder, results)
    lines = progress_lines(progress)
    lines += [f"{name} cannot be read: {error}" for name, error in results.problems.items()]
    title = f"Sweep {roots[0].path.name}"
    rows, expected = compared_rows(results), all_expected(progress.planned)
    if not rows:
        data = {"progress": lines}
        text = page(title, [Section("Progress", bullets(lines))], [_left(progress)], data)
        write_text(folder / HTML, text)
        return folder / HTML, lines
    comparison = compare(rows, expected=expected)
    command = f"python -m proco_jax.report --sweep={','.join(root.path.name for root in roots)}"
    content = write_tables(folder, comparison, rows, title, {"command": command})
    curves = sweep_curves(results.rows)
    text = _page(folder / _PICTURES, title, lines, progress, comparison, content, curves)
    write_text(folder / HTML, text)
    return folder / HTML, lines


def _page(
    pictures: Path,
    title: str,
    lines: Sequence[str],
    progress: Progress,
    comparison: Comparison,
    content: Mapping[str, Any],
    curves: Sequence[Curve],
) -> str:
    lead = [Section("Progress", bullets(lines)), *finding_sections(content)]
    sections = [_left(progress)] if progress.left else []
    drawn = draw_curves(pictures, curves)
    if drawn:
        shown = "".join(
            picture_html(path, f"{name} on {short_task(task)}", _CURVE_CAPTION)
            for (name, task, _), path in drawn.items()
        )
        sections.append(Section("Curves over hyperparameters", shown))
    tables = [Section(table.title, table_html(table)) for table in comparison_tables(content)]
    shown = _results_pictures(pictures, comparison)
    sections += [Section("Returns and costs", shown)] if shown else []
    sections += tables
    sections.append(Section("How it was made", bullets(provenance_sentences(content))))
    # The page shows no profiles; the JSON file beside it has them.
    data = {name: value for name, value in content.items() if name != "profiles"}
    data |= {"progress": list(lines), "curves": curves_json(curves)}
    return page(title, lead, sections, data)


def _results_pictures(folder: Path, comparison: Comparison) -> str:
    if len(comparison.summaries) > _MOST_PICTURES:
        return ""
    return "".join(
        picture_html(
            results_picture(folder / f"returns_and_costs_{i + 1}.png", summaries),
            setting_title(setting.run, setting.task),
            RESULTS_CAPTION,
        )
        for i, (setting, summaries) in enumerate(comparison.summaries.items())
    )


def _left(progress: Progress) -> Section:
    """What is left, by task, regime and algorithm."""
    groups: dict[tuple[str, str, str], list[bool]] = {}
    for run in progress.planned:
        key = short_task(run.task), run.regime, run.algorithm
        groups.setdefault(key, []).append(run.name in progress.finished)
    lines = [
        f"{task}, {regime} logs, {algorithm}: {sum(done)} of {len(done)} runs finished"
        for (task, regime, algorithm), done in groups.items()
    ]
    return Section("Done and left", bullets(lines))
