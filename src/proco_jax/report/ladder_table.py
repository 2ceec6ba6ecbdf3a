"""The tables of the oracle ladder."""

from collections.abc import Sequence
from typing import Any


def ladder_lines(report: dict[str, Any]) -> list[str]:
    """The report as Markdown."""
    found = ["", "| imagined violations, by | real | imagined | precision | recall |", _rule(5)]
    for name in ("rule", "network"):
        x = report["rollouts"][name]
        cells = (x["real_share"], x["imagined_share"], x["precision"], x["recall"])
        found.append(_row([name, *map(_text, cells)]))
    head = ["rung", "return", "cost", "mean cost", "violation-free", "V_h AUROC"]
    head += ["feasible called infeasible", "infeasible missed"]
    found += ["", _row(head), _rule(len(head))]
    for name, x in report["rungs"].items():
        keys = ("return_iqm", "cost_iqm", "cost_mean", "violation_free_share")
        seen = ("auroc", "feasible_called_infeasible", "infeasible_missed")
        cells = [x.get(key) for key in keys] + [x["feasibility"][key] for key in seen]
        found.append(_row([name, *map(_text, cells)]))
    return found


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(columns: int) -> str:
    return _row(["---"] * columns)
