"""The rows of `results.json`: one row for one evaluation of one policy.

A row is identified by its algorithm, augmentation, shield, seed and training
step; a new row with the same identity replaces the old one. Rows hold no time of
day, so an interrupted and resumed run writes the same bytes as an uninterrupted
one on the same code and device.
"""

import functools
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from proco_jax.common import checksums
from proco_jax.envs.tasks import Task, normalized_return
from proco_jax.types import Episode

Row = dict[str, Any]
# Algorithm, augmentation and shield of a policy.
Policy = tuple[str, str, str]

FILE = "results.json"
# In the order of tables and pictures.
AUGMENTATIONS = ("proco", "control", "none")
SHIELDS = ("planner", "filter", "none")
IDENTITY = ("algorithm", "augmentation", "shield", "seed", "step")
_SCORES = (
    "return_mean",
    "cost_mean",
    "normalized_return",
    "normalized_cost",
    "violation_free_share",
    "violation_steps_mean",
)
KEYS = (
    "task",
    "source",
    "regime",
    *IDENTITY,
    "settings",
    "commit",
    "device",
    "episodes",
    *_SCORES,
    "cost_limit",
    "returns",
    "costs",
    "versions",
)
# Columns of a table of rows, which leaves out the scores of single episodes.
COLUMNS = (
    "task",
    "source",
    "regime",
    "cost_limit",
    *IDENTITY,
    "episodes",
    *_SCORES,
    "settings",
    "commit",
    "device",
)
_PACKAGES = ("jax", "mujoco", "numpy", "safety-gymnasium", "proco_jax")


def result_row(
    task: Task,
    episodes: Sequence[Episode],
    *,
    source: str,
    regime: str,
    algorithm: str,
    augmentation: str,
    shield: str,
    seed: int,
    step: int,
    settings: str,
    cost_limit: float,
) -> Row:
    """The row of one policy.

    Args:
      task: the evaluated task.
      episodes: the episodes, in the order of their seeds.
      source: of the logs, as `data.source`.
      regime: of the logs: `safe`, `limited` or `full`.
      algorithm: name of the learning algorithm.
      augmentation: what generated costs and imagined samples in training, one of
        `AUGMENTATIONS`.
      shield: what guards the policy at deployment, one of `SHIELDS`.
      seed: of the policy.
      step: training step of the policy.
      settings: hash of all settings that made the row, 12 hex digits.
      cost_limit: of an episode; divides `normalized_cost`.

    Returns:
      A mapping with exactly `KEYS`. Returns and costs are sums over an episode;
      numbers are rounded to six decimals.

    Raises:
      ValueError: if there is no episode, a sum is not finite, the augmentation or
        shield is unknown, `settings` is not such a hash, or the limit is not
        positive.
    """
    if problem := _axis_problem(augmentation, shield):
        raise ValueError(problem)
    if not re.fullmatch("[0-9a-f]{12}", settings):
        raise ValueError(f"settings: found {settings!r}, expected a hash of 12 hex digits")
    if not (np.isfinite(cost_limit) and cost_limit > 0):
        raise ValueError(f"cost_limit: found {cost_limit!r}, expected a positive number")
    name = f"{policy_name(algorithm, augmentation, shield)}, seed {seed}, step {step}"
    if not episodes:
        raise ValueError(f"no episodes of {name}: a row needs at least one")
    returns = np.array([episode.reward.sum(dtype=np.float64) for episode in episodes])
    costs = np.array([episode.cost.sum(dtype=np.float64) for episode in episodes])
    if not (np.isfinite(returns).all() and np.isfinite(costs).all()):
        raise ValueError(f"an episode of {name} has a return or cost that is not finite")
    return {
        "task": task.name,
        "source": source,
        "regime": regime,
        "algorithm": algorithm,
        "augmentation": augmentation,
        "shield": shield,
        "seed": int(seed),
        "step": int(step),
        "settings": settings,
        "commit": code_commit(),
        "device": device_name(),
        "episodes": len(episodes),
        "return_mean": rounded(returns.mean()),
        "cost_mean": rounded(costs.mean()),
        "normalized_return": rounded(normalized_return(task, returns.mean())),
        "normalized_cost": rounded(costs.mean() / cost_limit),
        "violation_free_share": rounded((costs == 0).mean()),
        "violation_steps_mean": rounded(violation_steps_mean(episodes)),
        "cost_limit": float(cost_limit),
        "returns": [rounded(value) for value in returns],
        "costs": [rounded(value) for value in costs],
        "versions": versions(),
    }


def violation_steps_mean(episodes: Iterable[Episode]) -> float:
    """Mean length, in steps, of the contiguous stretches with a cost above 0.

    It says how long a policy stays in violation once it is there. A stretch ends
    with its episode at the latest; 0 if there is no violation.
    """
    lengths = [
        stop - start
        for episode in episodes
        for start, stop in np.flatnonzero(
            np.diff(np.concatenate([[False], episode.cost > 0, [False]]).astype(np.int8))
        ).reshape(-1, 2)
    ]
    return float(np.mean(lengths)) if lengths else 0.0


def versions() -> dict[str, str]:
    """Versions of the packages that influence a result; `absent` where not installed."""
    return {name: _version(name) for name in _PACKAGES}


@functools.cache
def code_commit() -> str:
    """The git commit of this package's source, read once per process.

    `+changes` is appended where the package's folder differs from that commit;
    `unknown` stands for a package that is not part of a git checkout.
    """
    return _commit_of(Path(__file__).resolve().parents[1])


def device_name() -> str:
    """Kind and number of the devices that JAX computes on, e.g. `cpu x2`."""
    return f"{jax.devices()[0].device_kind} x{jax.device_count()}"


def machine_name() -> str:
    """Processor and cores of this machine, e.g. `AMD EPYC 7B13, 2 cores, Linux`."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        model = found[1].strip() if found else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def write_rows(path: Path, rows: Iterable[Row], whole: bool = False) -> list[Row]:
    """Adds rows to a results file, replacing those with the same identity.

    The file is replaced atomically, and its checksum recorded.

    Args:
      path: of the file.
      rows: to add.
      whole: whether they are all that the file shall hold.

    Returns:
      All rows now in the file, ordered by policy (as in `final_rows`), step and seed.

    Raises:
      ValueError: if a row does not have exactly `KEYS`, or the file is damaged.
    """
    before = load_rows(path) if path.exists() and not whole else []
    known = {_identity(row): row for row in before}
    for row in rows:
        known[_identity(_checked(row, "a new row"))] = row
    ordered = sorted(known.values(), key=_order)
    text = "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in ordered) + "\n]\n"
    checksums.write_recorded(path, text)
    return ordered


def load_rows(path: Path) -> list[Row]:
    """The rows of a results file.

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: if it is not a list of rows with exactly `KEYS`.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {path}: the run has not evaluated a policy yet")
    text = checksums.read_recorded(path, _advice(path))
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {_advice(path)}") from error
    if not isinstance(rows, list):
        raise ValueError(
            f"{path} holds a {type(rows).__name__}, expected a list of rows; {_advice(path)}"
        )
    return [_checked(row, str(path), _advice(path)) for row in rows]


def final_rows(rows: Sequence[Row]) -> dict[Policy, list[Row]]:
    """The rows of each policy (algorithm, augmentation, shield) at the last step of its training.

    Policies are ordered by algorithm, then as in `AUGMENTATIONS`, then as in `SHIELDS`, their rows
    by seed. The last step is taken whatever the scores are. It is that of all shields together, so
    an interim evaluation without shield is not a result of a training that was evaluated later.
    """
    last: dict[tuple[str, str], int] = {}
    for row in rows:
        training = row["algorithm"], row["augmentation"]
        last[training] = max(last.get(training, 0), row["step"])
    groups: dict[Policy, list[Row]] = {}
    for row in sorted(rows, key=_order):
        if row["step"] == last[row["algorithm"], row["augmentation"]]:
            groups.setdefault(policy_of(row), []).append(row)
    return groups


def policy_of(row: Mapping[str, Any]) -> Policy:
    """Algorithm, augmentation and shield of a row, or of any mapping with these keys."""
    return row["algorithm"], row["augmentation"], row["shield"]


def policy_name(algorithm: str, augmentation: str, shield: str = "none") -> str:
    """A policy's name in figures and messages, e.g. `bc + PROCO, planner`."""
    label = {"none": "", "proco": " + PROCO"}.get(augmentation, f" + {augmentation}")
    return f"{algorithm}{label}" + ("" if shield == "none" else f", {shield}")


def _axis_problem(augmentation: Any, shield: Any) -> str:
    for name, value, known in (
        ("augmentation", augmentation, AUGMENTATIONS),
        ("shield", shield, SHIELDS),
    ):
        if value not in known:
            return f"{name}: found {value!r}, expected one of {', '.join(known)}"
    return ""


def _commit_of(folder: Path) -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout.strip()

    try:
        # Inside of another project's checkout, e.g. in its virtual environment, the
        # package's files are not tracked, and that project's commit says nothing.
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        commit = git("rev-parse", "HEAD")
        changes = git("--no-optional-locks", "status", "--porcelain", "--", ".")
        return commit + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _advice(path: Path) -> str:
    return (
        f"remove {path}, then run the same command again: it evaluates the trained policies again "
        "without training anew"
    )


def _checked(row: Any, where: str, advice: str = "") -> Row:
    """The row itself; raises ValueError if it is not one."""
    found = set(row) if isinstance(row, dict) else set()
    if found == set(KEYS):
        problem = _axis_problem(row["augmentation"], row["shield"])
    else:
        missing, unknown = sorted(set(KEYS) - found), sorted(found - set(KEYS))
        problem = f"not a row of results; missing {missing}, unknown {unknown}"
    if problem:
        raise ValueError(f"{where}: {problem}" + (f"; {advice}" if advice else ""))
    return row


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in IDENTITY)


def _order(row: Row) -> tuple[Any, ...]:
    augmentation = AUGMENTATIONS.index(row["augmentation"])
    return row["algorithm"], augmentation, SHIELDS.index(row["shield"]), row["step"], row["seed"]


def rounded(value: Any) -> float:
    """A number to six decimals, as results files hold it."""
    # Adding zero turns -0.0 into 0.0.
    return round(float(value), 6) + 0.0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
