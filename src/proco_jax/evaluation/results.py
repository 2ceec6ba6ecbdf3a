"""The rows of `results.json`: one evaluation of one policy each.

A row is known by its algorithm, its use of generated costs, its seed and its
training step; writing it again replaces it. Rows hold no time of day, so a run
that was killed and resumed writes the same bytes as one that wasn't.
"""

import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import write_text
from proco_jax.envs.tasks import Task, normalized_cost, normalized_return
from proco_jax.types import Episode

Row = dict[str, Any]

FILE = "results.json"
IDENTITY = ("algorithm", "proco", "seed", "step")
KEYS = (
    "task",
    "regime",
    *IDENTITY,
    "episodes",
    "return_mean",
    "cost_mean",
    "normalized_return",
    "normalized_cost",
    "violation_free_share",
    "cost_limit",
    "returns",
    "costs",
    "versions",
)
_PACKAGES = ("jax", "mujoco", "numpy", "safety-gymnasium", "proco_jax")


def result_row(
    task: Task,
    episodes: Sequence[Episode],
    *,
    regime: str,
    algorithm: str,
    proco: bool,
    seed: int,
    step: int,
) -> Row:
    """The row of one policy.

    Args:
      task: what was played.
      episodes: its episodes, in the order of their seeds.
      regime: which logs it learned from: `safe`, `limited` or `full`.
      algorithm: its name.
      proco: whether it learned from generated costs.
      seed: its seed.
      step: its training step.

    Returns:
      A mapping with exactly `KEYS`. Returns and costs are sums over an
      episode, rounded to six digits after the point.

    Raises:
      ValueError: if there is no episode, or a sum isn't finite.
    """
    if not episodes:
        raise ValueError(f"no episodes of {algorithm} seed {seed} to make a row of")
    returns = np.array([episode.reward.sum(dtype=np.float64) for episode in episodes])
    costs = np.array([episode.cost.sum(dtype=np.float64) for episode in episodes])
    if not (np.isfinite(returns).all() and np.isfinite(costs).all()):
        raise ValueError(f"an episode of {algorithm} seed {seed} has a return that isn't finite")
    return {
        "task": task.name,
        "regime": regime,
        "algorithm": algorithm,
        "proco": bool(proco),
        "seed": int(seed),
        "step": int(step),
        "episodes": len(episodes),
        "return_mean": _rounded(returns.mean()),
        "cost_mean": _rounded(costs.mean()),
        "normalized_return": _rounded(normalized_return(task, returns.mean())),
        "normalized_cost": _rounded(normalized_cost(task, costs.mean())),
        "violation_free_share": _rounded((costs == 0).mean()),
        "cost_limit": float(task.cost_limit),
        "returns": [_rounded(value) for value in returns],
        "costs": [_rounded(value) for value in costs],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result; `absent` where not installed."""
    return {name: _version(name) for name in _PACKAGES}


def write_rows(path: Path, rows: Iterable[Row]) -> list[Row]:
    """Adds rows to a results file, replacing those with the same identity.

    The file is replaced as a whole, so a kill leaves the old one or the new.

    Returns:
      All rows now in the file, sorted by algorithm, proco, step and seed.

    Raises:
      ValueError: if a row hasn't exactly `KEYS`, or the file is no results file.
    """
    known = {_identity(row): row for row in (load_rows(path) if path.exists() else [])}
    for row in rows:
        known[_identity(_checked(row, "a new row"))] = row
    ordered = sorted(known.values(), key=_order)
    text = "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in ordered) + "\n]\n"
    write_text(path, text)
    return ordered


def load_rows(path: Path) -> list[Row]:
    """The rows of a results file.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it isn't a list of rows with exactly `KEYS`.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {path}: the run there hasn't evaluated a policy yet")
    try:
        rows = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run again") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a {type(rows).__name__}, expected a list of rows")
    return [_checked(row, str(path)) for row in rows]


def final_rows(rows: Sequence[Row]) -> dict[tuple[str, bool], list[Row]]:
    """The rows at the last step of each (algorithm, proco), by seed; baselines last.

    Which step is reported never depends on how good it is.
    """
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["algorithm"], not row["proco"], row["seed"])):
        groups.setdefault((row["algorithm"], row["proco"]), []).append(row)
    last = {name: max(row["step"] for row in group) for name, group in groups.items()}
    return {
        name: [row for row in group if row["step"] == last[name]] for name, group in groups.items()
    }


def policy_name(algorithm: str, proco: bool) -> str:
    """What tables and pictures call a policy."""
    return f"{algorithm} + PROCO" if proco else algorithm


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, dict) or set(row) != set(KEYS):
        found = set(row) if isinstance(row, dict) else set()
        raise ValueError(
            f"{where}: not a row of results; missing {sorted(set(KEYS) - found)}, "
            f"unknown {sorted(found - set(KEYS))}"
        )
    return row


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in IDENTITY)


def _order(row: Row) -> tuple[Any, ...]:
    return row["algorithm"], not row["proco"], row["step"], row["seed"]


def _rounded(value: Any) -> float:
    # Adding zero turns -0.0 into 0.0.
    return round(float(value), 6) + 0.0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
