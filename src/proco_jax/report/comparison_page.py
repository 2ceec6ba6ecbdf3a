"""The HTML page of a comparison, self-contained: findings, tables, pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proco_jax.report.comparison_tables import comparison_tables, provenance_sentences
from proco_jax.report.html import Section, bullets, page, paragraph, picture_html, table_html
from proco_jax.report.pictures import RESULTS_CAPTION

_LEADS = {
    "training": "What training gives",
    "knowledge": "What knowledge gives",
    "shield": "What the shield gives",
}
_CAPTIONS = {
    "returns_and_costs": RESULTS_CAPTION,
    "gains": (
        "Differences in mean cost (above) and mean return (below) with 95% paired bootstrap "
        "intervals. Left of the dashed line the cost is lower. A cross marks what is missing."
    ),
    "improvement": (
        "Probability that a run trained with proco is better than a run of the same algorithm "
        "trained otherwise, without a shield, with 95% intervals. Right of the dashed line proco "
        "is better more often than not."
    ),
    "profile_cost": (
        "Performance profiles of the cost: the share of episodes whose cost is at most x times the "
        "limit, with pointwise 95% bands without a shield. Higher is safer; the dashed line is the "
        "limit."
    ),
    "profile_return": (
        "Performance profiles of the return: the share of episodes whose normalized return is at "
        "least x. Higher is better."
    ),
}


def comparison_page(
    content: Mapping[str, Any], title: str, drawn: Mapping[str, Sequence[Path]]
) -> str:
    """The HTML page of a comparison.

    Args:
      content: of a `Comparison`.
      title: of the page.
      drawn: paths of pictures, by the keys of their captions.
    """
    made = bullets(provenance_sentences(content))
    tables = {table.title: table_html(table) for table in comparison_tables(content)}

    def shown(*kinds: str) -> str:
        return "".join(
            picture_html(path, f"{title}: {path.stem.replace('_', ' ')}", _CAPTIONS[kind])
            for kind in kinds
            for path in drawn.get(kind, ())
        )

    illustrated = {
        "Policies": ("returns_and_costs",),
        "Gains of training, knowledge and shield": ("gains",),
        "Probability of improvement": ("improvement",),
    }
    sections = [Section("How it was made", made)]
    sections += [
        Section(heading, shown(*illustrated.get(heading, ())) + table)
        for heading, table in tables.items()
    ]
    if profiles := shown("profile_cost", "profile_return"):
        sections.append(Section("Performance profiles", profiles))
    return page(title, finding_sections(content), sections, content)


def finding_sections(content: Mapping[str, Any]) -> list[Section]:
    """What training, knowledge and the shield give, for the top of a page."""
    return [
        Section(_LEADS[finding["axis"]], paragraph(finding["text"]))
        for finding in content["findings"]
    ]
