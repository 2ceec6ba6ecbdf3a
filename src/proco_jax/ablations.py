"""What each part of PROCO contributes: the same run with one setting changed.

    python -m proco_jax.ablations --config=experiments/point_goal.py --seeds=2

Works on the finished run of that config, with PROCO's algorithm and augmentation alone. Each change
is a run of its own, `ablations/<change>-<seeds>`, which can be resumed; it takes artifacts from the
store of the finished run wherever their inputs agree. The table goes to `ablations/ablations.json`
and to the terminal. What other algorithms, no augmentation or other shields give is not an ablation
but an axis of the run itself (`--config.algorithms`, `augmentations`, `shields`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from proco_jax import command_line
from proco_jax.common.sharding import use_cores_as_devices
from proco_jax.config.ablation_settings import ABLATIONS, ablated, needs_training
from proco_jax.config.schema import Config, replaced
from proco_jax.evaluation.results import FILE, load_rows
from proco_jax.knowledge.grounding import CACHE_NAME
from proco_jax.pipeline import stages
from proco_jax.pipeline.workdir import Run, check_finished, open_run
from proco_jax.report.tables import markdown_table, number, summarize, summary_metrics

# Ladder and ablations both have this flag, and one process may import both.
_SEEDS = flags.DEFINE_integer(
    "seeds",
    0,
    "Seeds of each change; 0 for as many as the run has.",
    lower_bound=0,
    allow_override=True,
)
_ONLY = flags.DEFINE_list("only", list(ABLATIONS), "Which changes to make.")


def main(config: Config, workdir: Path) -> None:
    """Makes the changes, or resumes."""
    seeds = _SEEDS.value or config.seeds
    ablate(config, workdir, _ONLY.value, seeds, command_line.store())


def ablate(
    config: Config, workdir: Path, names: Sequence[str], seeds: int, store: Path | None = None
) -> None:
    """Runs the named changes one after the other.

    Args:
      store: root of the shared artifacts; None for the default, see `workdir.open_run`.

    Raises:
      ValueError: on an unknown change, or a run that is not finished.
    """
    if unknown := sorted(set(names) - set(ABLATIONS)):
        raise ValueError(f"--only: found {', '.join(unknown)}, expected some of {list(ABLATIONS)}")
    check_finished(workdir)
    stages.check_episodes(config, "an ablation")
    use_cores_as_devices(max(seeds, config.seeds, config.dynamics.members))
    with open_run(config, workdir, store, log=command_line.say) as own:
        stages.check_made(own)
        report = own.read_json("ablations/ablations.json") or {}
        for name in names:
            own.log(f"\n#### {name}")
            # A change of deployment alone shares the trainings of the finished run, of all seeds.
            count = seeds if needs_training(ABLATIONS[name]) else config.seeds
            folder = workdir / "ablations" / f"{name.replace(' ', '_')}-{count}"
            report[name] = _one(own, folder, ablated(config, ABLATIONS[name], count), seeds)
            own.write_json("ablations/ablations.json", report)
    command_line.say("\n" + table(report))


def table(report: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as a Markdown table, without shield and with the planner."""
    head = ["change", "shield", "return", "cost", "mean cost", "violation-free"]
    head += ["V_h AUROC, 10 steps", "safe called infeasible", "seeds x episodes"]
    keys = ("return_iqm", "cost_iqm", "cost_mean", "violation_free_share")
    rows = [
        [
            name,
            shield,
            *(number(found[k]) for k in keys),
            number(row["auroc_10"]),
            number(row["false_infeasible_share"]),
            f"{found['seeds']} x {found['episodes']}",
        ]
        for name, row in report.items()
        for shield, found in row["shields"].items()
    ]
    return markdown_table(head, rows)


def _one(own: Run, folder: Path, config: Config, seeds: int) -> dict[str, Any]:
    if not config.knowledge.cache:
        # A language model must not write new rules for every ablation.
        replies = str((own.workdir / CACHE_NAME).absolute())
        config = replaced(config, {"knowledge.cache": replies})
    with open_run(config, folder, own.store, log=own.log) as run:
        stages.run_all(run)
        rows = [x for x in load_rows(folder / FILE) if x["seed"] < config.seed + seeds]
        feasible = next(iter((run.read_json("feasibility.json") or {}).values()), {})
    return {
        "shields": {summary.shield: summary_metrics(summary) for summary in summarize(rows)},
        "auroc_10": feasible.get("auroc", {}).get("10", {}).get("v_h"),
        "false_infeasible_share": feasible.get("false_infeasible_share"),
    }


if __name__ == "__main__":
    command_line.run(main)
