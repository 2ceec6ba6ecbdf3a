"""The tables of the oracle ladder."""

from collections.abc import Mapping
from typing import Any

from proco_jax.report.tables import markdown_table, number

_ROLLOUTS = ("real_share", "imagined_share", "precision", "recall")
_EVALUATION = ("return_iqm", "cost_iqm", "cost_mean", "violation_free_share")
_FEASIBILITY = ("auroc", "feasible_called_infeasible", "infeasible_missed")


def ladder_tables(report: Mapping[str, Any]) -> str:
    """Agreement of imagined with real violations, and the results of each rung, as Markdown."""
    rollouts = [
        [name, *(number(report["rollouts"][name][key]) for key in _ROLLOUTS)]
        for name in ("rule", "network")
    ]
    rungs = [
        [
            name,
            *(number(row.get(key)) for key in _EVALUATION),
            *(number(row["feasibility"][key]) for key in _FEASIBILITY),
        ]
        for name, row in report["rungs"].items()
    ]
    agreement = ["violations judged by", "real share", "imagined share", "precision", "recall"]
    results = ["rung", "return, IQM", "cost, IQM", "mean cost", "violation-free", "V_h AUROC"]
    results += ["feasible called infeasible", "infeasible missed"]
    return markdown_table(agreement, rollouts) + "\n" + markdown_table(results, rungs)
