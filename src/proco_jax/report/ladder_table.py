"""The tables of the oracle ladder."""

from collections.abc import Mapping
from typing import Any

from proco_jax.report.tables import markdown_table, number

_ROLLOUTS = ("real_share", "imagined_share", "precision", "recall")
_PLAYED = ("return_iqm", "cost_iqm", "cost_mean", "violation_free_share")
_KNOWN = ("auroc", "feasible_called_infeasible", "infeasible_missed")


def ladder_tables(report: Mapping[str, Any]) -> str:
    """Agreement of imagined with real violations, and the rungs, as Markdown."""
    rollouts = [
        [name, *(number(report["rollouts"][name][key]) for key in _ROLLOUTS)]
        for name in ("rule", "network")
    ]
    rungs = [
        [
            name,
            *(number(row.get(key)) for key in _PLAYED),
            *(number(row["feasibility"][key]) for key in _KNOWN),
        ]
        for name, row in report["rungs"].items()
    ]
    head = ["rung", "return", "cost", "mean cost", "violation-free", "V_h AUROC"]
    head += ["feasible called infeasible", "infeasible missed"]
    return (
        markdown_table(["violations, imagined by", *_ROLLOUTS], rollouts)
        + "\n"
        + markdown_table(head, rungs)
    )
