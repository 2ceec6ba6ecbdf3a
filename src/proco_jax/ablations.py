"""What each part of PROCO contributes: the same run with one thing changed.

    python -m proco_jax.ablations --config=experiments/point_goal.py --seeds=2

Works on the finished run of that config: what a change does not touch, dynamics
model, labels, cost network, and the policies where only their deployment is
changed, is taken from there. Every change has a folder
of its own below `ablations/`, which resumes; the table goes to
`ablations/ablations.json` and to the terminal.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from proco_jax import command_line
from proco_jax.common import sharding as devices
from proco_jax.config.schema import Config
from proco_jax.config.variations import CHANGES, changed, trains
from proco_jax.evaluation.results import FILE, load_rows
from proco_jax.pipeline import stages as pipeline
from proco_jax.pipeline.workdir import Run, check_finished, open_run
from proco_jax.report.tables import markdown_table, number, played, summarize

# What a stage leaves, and the rooms of settings that decide it.
_STAGES = (
    (("checkpoints/dynamics", "dynamics.json"), ("dynamics",)),
    (("checkpoints/cost", "labels.npz", "cost.json"), ("dynamics", "cost", "knowledge")),
)
_POLICIES = ("checkpoints/proco", "rollouts.json")

_SEEDS = flags.DEFINE_integer(
    "seeds", 0, "Seeds of each change; 0 for as many as the run has.", lower_bound=0
)
_ONLY = flags.DEFINE_list("only", list(CHANGES), "Which changes to make.")


def main(config: Config, workdir: Path) -> None:
    """Makes the changes, or goes on with them."""
    ablate(config, workdir, _ONLY.value, _SEEDS.value or config.seeds)


def ablate(config: Config, workdir: Path, names: Sequence[str], seeds: int) -> None:
    """Runs the named changes one after the other.

    Raises:
      ValueError: on an unknown change, or a run that is not finished.
    """
    if unknown := sorted(set(names) - set(CHANGES)):
        raise ValueError(f"--only: found {', '.join(unknown)}, expected some of {list(CHANGES)}")
    check_finished(workdir)
    devices.share_cores(seeds)
    with open_run(config, workdir, log=command_line.say) as own:
        report = own.read_json("ablations/ablations.json") or {}
        for name in names:
            own.log(f"\n#### {name}")
            folder = workdir / "ablations" / name.replace(" ", "_")
            report[name] = _one(own, folder, CHANGES[name], seeds)
            own.write_json("ablations/ablations.json", report)
    command_line.say("\n" + table(report))


def table(report: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    head = ["change", "return", "cost", "mean cost", "violation-free", "V_h AUROC, 10 steps"]
    head += ["safe called infeasible", "seeds x episodes"]
    keys = ("return_iqm", "cost_iqm", "cost_mean", "violation_free_share", "auroc_10")
    rows = [
        [name, *(number(row[k]) for k in (*keys, "false_infeasible_share")), row["played"]]
        for name, row in report.items()
    ]
    return markdown_table(head, rows)


def _one(own: Run, folder: Path, settings: Mapping[str, Any], seeds: int) -> dict[str, Any]:
    trained = not trains(settings) and own.config.proco.enabled and seeds <= own.config.seeds
    # Trained policies are taken over all together, and all are played.
    config = changed(own.config, settings, own.config.seeds if trained else seeds)
    _borrow(own, folder, config, trained)
    with open_run(config, folder, log=own.log) as run:
        pipeline.run_all(run)
        rows = [x for x in load_rows(folder / FILE) if x["seed"] < config.seed + seeds]
        found = summarize(rows)[0]
        feasible = next(iter((run.read_json("feasibility.json") or {}).values()), {})
    return {
        **played(found),
        "auroc_10": feasible.get("auroc", {}).get("10", {}).get("v_h"),
        "false_infeasible_share": feasible.get("false_infeasible_share"),
        "played": f"{found.seeds} x {found.episodes}",
    }


def _borrow(own: Run, folder: Path, config: Config, trained: bool) -> None:
    """Copies what the change does not touch, before the run looks for it."""
    if folder.exists():
        return
    per_seed = config.dynamics.per_seed and config.seeds != own.config.seeds
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files = [*_POLICIES] if trained else []
    for stage, rooms in _STAGES:
        same = all(getattr(own.config, x) == getattr(config, x) for x in rooms)
        files.extend(stage if same and not per_seed else ())
    for file in files:
        source, target = own.workdir / file, partial / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copy(source, target)
    partial.rename(folder)


if __name__ == "__main__":
    command_line.run(main)
