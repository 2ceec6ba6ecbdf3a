"""`python -m proco_jax.export --workdir=runs/tank-default --out=FOLDER`.

Exports one policy of a finished run with its shield: a folder that runs with jax and numpy alone
(`deployment/exporting.py`).
"""

import json
from pathlib import Path
from typing import Any

from absl import app, flags

from proco_jax import command_line

_OUT = flags.DEFINE_string("out", None, "Folder to make; it must not exist, or be empty.")
_ALGORITHM = flags.DEFINE_string("algorithm", "proco", "Name of the algorithm in the results.")
_AUGMENTATION = flags.DEFINE_string("augmentation", "proco", "Augmentation of the training.")
_SHIELD = flags.DEFINE_string(
    "shield", None, "none, filter or planner; by default the planner where the policy has a shield."
)
_SEED = flags.DEFINE_integer("seed", 0, "Which of the run's policies, counted from 0.")


def export(
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
    # These take seconds to import; wrong flags are reported before.
    from proco_jax.common.files import write_text
    from proco_jax.deployment import exporting
    from proco_jax.deployment.policy import load_policy

    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out: {out} is not empty; name a new folder")
    policy = load_policy(workdir, algorithm, augmentation, shield, seed)
    inputs, actions, described = _names(workdir, policy.task)
    more = {"algorithm": algorithm, "augmentation": augmentation, "seed": seed, **described}
    exporting.export_policy(policy, out, inputs, actions, more)
    if (workdir / "system.md").exists():
        write_text(out / "system.md", (workdir / "system.md").read_text(encoding="utf-8"))
    equality = exporting.check_equal(policy, out)
    if equality.differing > equality.states // 100:
        raise ValueError(
            f"the exported policy differs from load_policy in {equality.differing} of "
            f"{equality.states} states, by up to {equality.largest:g}; do not deploy {out}"
        )
    latency = exporting.measure_latency(out)
    meta = json.loads((out / exporting.META).read_text(encoding="utf-8"))
    meta |= {"equality": equality._asdict(), "latency": latency}
    write_text(out / exporting.META, json.dumps(meta, indent=2, allow_nan=False) + "\n")
    return meta


def _names(workdir: Path, task: Any) -> tuple[list[dict], list[dict], dict[str, Any]]:
    """Inputs, actions, and what the description of a system says beside."""
    from proco_jax.system.description import parse_system

    path = workdir / "dataset.json"
    try:
        support = json.loads(path.read_text(encoding="utf-8"))["support"]
        low, high = support["low"], support["high"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold the range of the logs ({error!r}); run the same command of the "
            "run again, which writes it"
        ) from error
    names = [
        (f.name if f.size == 1 else f"{f.name}_{i}", f.unit)
        for f in task.observation.fields
        for i in range(f.size)
    ]
    inputs = [
        {"name": name, "unit": unit, "low": a, "high": b}
        for (name, unit), a, b in zip(names, low, high, strict=True)
    ]
    description = workdir / "system.md"
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


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    from proco_jax.common.compilation_cache import use_compilation_cache

    with command_line.report_errors():
        use_compilation_cache()
        workdir, out = Path(flags.FLAGS.workdir), Path(_OUT.value or "")
        meta = export(
            workdir, out, _ALGORITHM.value, _AUGMENTATION.value, _SHIELD.value, _SEED.value
        )
        command_line.say(
            f"{out}: {meta['algorithm']}-{meta['augmentation']}, shield {meta['shield']}, seed "
            f"{meta['seed']}"
        )
        equality, latency = meta["equality"], meta["latency"]
        command_line.say(
            f"  equal to load_policy on {equality['states'] - equality['differing']} of "
            f"{equality['states']} states, largest difference {equality['largest']:.2g}"
        )
        command_line.say(
            f"  {latency['median_ms']:.3g} ms a step on one core of this CPU, 99th percentile "
            f"{latency['p99_ms']:.3g} ms"
        )
        command_line.say("  run_policy.py in it says how to run it")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "out"])
    app.run(_main)
