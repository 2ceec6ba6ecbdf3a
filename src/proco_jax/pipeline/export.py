"""Export of a policy of a finished run, with the names and units of its system."""

import json
import shutil
from pathlib import Path
from typing import Any

from proco_jax.common.files import write_text
from proco_jax.deployment import exporting
from proco_jax.deployment.policy import load_policy
from proco_jax.pipeline.workdir import DESCRIPTION
from proco_jax.system.description import parse_system
from proco_jax.types import TaskSpec

# Where an export is made before it was compared.
PARTIAL = ".partial"


def export_run(
    workdir: Path,
    out: Path,
    algorithm: str = "proco",
    augmentation: str = "proco",
    shield: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Exports a policy, compares it with `load_policy`, and measures it.

    Returns:
      The content of `policy.json`.

    Raises:
      ValueError: if the folder is not empty, or the exported policy acts differently.
      FileNotFoundError: if there is no such policy.
    """
    if out.exists() and any(path.name != PARTIAL for path in out.iterdir()):
        raise ValueError(f"--out: {out} is not empty; name a new folder")
    policy = load_policy(workdir, algorithm, augmentation, shield, seed)
    inputs, actions, described = _names(workdir, policy.task)
    more = {"algorithm": algorithm, "augmentation": augmentation, "seed": seed, **described}
    # So that the folder holds a whole policy that was compared, or none.
    partial = out / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    exporting.export_policy(policy, partial, inputs, actions, more)
    if (workdir / DESCRIPTION).exists():
        write_text(partial / DESCRIPTION, (workdir / DESCRIPTION).read_text(encoding="utf-8"))
    equality = exporting.check_equal(policy, partial)
    if equality.differing > equality.states // 100:
        raise ValueError(
            f"the exported policy differs from load_policy in {equality.differing} of "
            f"{equality.states} states, by up to {equality.largest:g}; do not deploy what is left "
            f"in {partial}"
        )
    latency = exporting.measure_latency(partial)
    meta = json.loads((partial / exporting.META).read_text(encoding="utf-8"))
    meta |= {"equality": equality._asdict(), "latency": latency}
    write_text(partial / exporting.META, json.dumps(meta, indent=2, allow_nan=False) + "\n")
    for path in sorted(partial.iterdir(), key=lambda path: path.name == exporting.META):
        path.rename(out / path.name)
    partial.rmdir()
    return meta


def _names(workdir: Path, task: TaskSpec) -> tuple[list[dict], list[dict], dict[str, Any]]:
    """Inputs, actions, and what the description of a system says beside."""
    path = workdir / "dataset.json"
    try:
        support = json.loads(path.read_text(encoding="utf-8"))["support"]
        low, high = support["low"], support["high"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold the range of the logs ({error!r}); remove it, then the same "
            "command of the run writes it anew without training"
        ) from error
    units = [f.unit for f in task.observation.fields for _ in range(f.size)]
    inputs = [
        {"name": name, "unit": unit, "low": a, "high": b}
        for name, unit, a, b in zip(task.observation.names, units, low, high, strict=True)
    ]
    description = workdir / DESCRIPTION
    described: dict[str, Any] = {
        "episode_steps": task.episode_steps,
        "cost_limit": task.cost_limit,
    }
    if not description.exists():
        actions = [
            {"name": f"action_{i}", "unit": "", "low": -1.0, "high": 1.0}
            for i in range(task.action_size)
        ]
        return inputs, actions, described
    system = parse_system(description.read_text(encoding="utf-8"))
    rule = system.knowledge.rule
    described |= {
        "system": system.name,
        "step_s": system.step_s,
        "unsafe": system.knowledge.text,
        "rule": None if rule is None else rule.text,
    }
    actions = [
        {"name": a.name, "unit": a.unit, "low": a.low, "high": a.high} for a in system.actions
    ]
    return inputs, actions, described
