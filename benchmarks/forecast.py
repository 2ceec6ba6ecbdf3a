"""The violation forecast against the simulator, on fresh data and dynamics each time.

    nice -n 10 python -m benchmarks.forecast --repetitions=10 --out=forecast.json

Repetition i is a whole run of PROCO: logs collected with data seed i, and dynamics, labels, cost
network and a policy trained with seed 100 i. Of each collection the first `KEPT` episodes without a
violation are the logs, so that all repetitions have arrays of equal shapes and share compiled
programs. Its forecast is that of the thresholds which it deploys, its truth the share of violating
episodes of the same policy under the planner. The settings are those of the variant `quick` with
the changes of `SETTINGS`: 256 imagined trajectories, up to four times as many where they are too
few, and 30 episodes of each repetition.

A finished repetition is read from its folder, an interrupted one is resumed.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from scipy.stats import binomtest

from proco_jax.common.commands import begin_command
from proco_jax.common.files import write_text
from proco_jax.config.presets import set_variant
from proco_jax.config.schema import Config, differences, replaced
from proco_jax.data.collection import collect, slug
from proco_jax.data.minari_store import dataset_root, read_dataset, read_metadata
from proco_jax.data.minari_writer import Origin, write_dataset
from proco_jax.envs.tasks import get_task
from proco_jax.evaluation.results import FILE, final_rows, load_rows
from proco_jax.report.tables import markdown_table

SETTINGS: dict[str, Any] = {
    "algorithms": ("proco",),
    "augmentations": ("proco",),
    "shields": ("planner",),
    "seeds": 1,
    "data.episodes": 120,
    "data.holdout_share": 0.2,
    "dynamics.steps": 1500,
    "cost.steps": 500,
    "train.steps": 500,
    "train.batch": 256,
    "train.chunk": 250,
    "train.checkpoint_every": 500,
    "rollouts.interval": 250,
    "shield.forecast_starts": 256,
    "evaluation.episodes": 30,
}
KEPT = 40
_FORECAST, _CONFIG, _DONE = "violation_forecast.json", "config.json", "done.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """Forecast and truth of one repetition.

    Attributes:
      repetition: its number.
      qh_threshold: deployed.
      planner_threshold: deployed.
      forecast: share of episodes that violate, by the forecast; None if no imagined step counted.
      low: lower end of its interval, then 0.
      high: upper end of its interval, then 1.
      imagined_violations: among the imagined trajectories.
      imagined_steps: of these that counted.
      violating: episodes in the simulator that violated.
      episodes: episodes in the simulator.
      truth_low: lower end of the exact 95% interval of their share (Clopper and Pearson 1934).
      truth_high: upper end of it.
    """

    repetition: int
    qh_threshold: float
    planner_threshold: float
    forecast: float | None
    low: float
    high: float
    imagined_violations: int
    imagined_steps: int
    violating: int
    episodes: int
    truth_low: float
    truth_high: float

    @property
    def truth(self) -> float:
        """The share of episodes that violated."""
        return self.violating / self.episodes

    @property
    def verdict(self) -> str:
        """Where the truth lies, given the error of an evaluation with so few episodes."""
        if self.truth_low > self.high:
            return "above"
        return "below" if self.truth_high < self.low else "covered"


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_integer("repetitions", 10, "how many runs", lower_bound=1)
    flags.DEFINE_string("task", "SafetyPointGoal1", "task of all runs")
    flags.DEFINE_string("folder", "runs/forecast", "folder of the runs")
    flags.DEFINE_string("out", "", "JSON file for the rows")
    app.run(main)


def main(argv: Sequence[str]) -> None:
    """Runs what is missing and prints a table."""
    begin_command(argv)
    o = flags.FLAGS
    print(table(measure(o.task, o.repetitions, Path(o.folder), Path(o.out) if o.out else None)))


def measure(task: str, repetitions: int, folder: Path, out: Path | None) -> list[Row]:
    """The rows of all repetitions; those that are not finished are run.

    Args:
      task: of all runs.
      repetitions: how many.
      folder: of the runs, one folder per task.
      out: JSON file for the rows, written after each repetition.
    """
    rows: list[Row] = []
    for repetition in range(repetitions):
        config, workdir = config_of(task, repetition), folder / task / str(repetition)
        if not finished(config, workdir):
            start = time.monotonic()
            run_one(config, workdir)
            print(f"repetition {repetition}: {time.monotonic() - start:.0f} s", flush=True)
        rows.append(row_of(repetition, workdir))
        if out is not None:
            content = {"task": task, "settings": SETTINGS, "summary": summary(rows)}
            content["rows"] = [dataclasses.asdict(row) for row in rows]
            write_text(out, json.dumps(content, indent=1) + "\n")
    return rows


def config_of(task: str, repetition: int) -> Config:
    """The config of a repetition, all of whose random numbers are its own."""
    config = set_variant(Config(experiment="forecast", task=task), "quick")
    source = f"minari:{dataset_of(task, repetition)}"
    own = {"data.seed": repetition, "data.source": source, "seed": 100 * repetition}
    return replaced(config, SETTINGS | own)


def dataset_of(task: str, repetition: int) -> str:
    """The id of the dataset of a repetition."""
    return f"proco/{slug(task)}/forecast-s{repetition}-v0"


def make_logs(config: Config) -> None:
    """Makes the dataset of a repetition, unless it is there: the first episodes that are safe.

    Raises:
      ValueError: if the collection has too few.
    """
    dataset = config.data.source.removeprefix("minari:")
    root, task = dataset_root(config.data.root), get_task(config.task)
    if read_metadata(root, dataset) is not None:
        return
    collected = read_dataset(root, collect(replaced(config, {"data.source": "collect"})))
    safe = [episode for episode in collected.episodes if not episode.cost.any()][:KEPT]
    if len(safe) < KEPT:
        raise ValueError(f"{collected.dataset_id}: found {len(safe)} safe episodes, not {KEPT}")
    recipe = collected.details["recipe"] | {"safe_episodes": KEPT}
    description = f"The first {KEPT} safe episodes of {collected.dataset_id}."
    versions = collected.details["versions"]
    origin = Origin(
        task.name, task.env_id, task.spec, "collect", recipe, "controllers", description, versions
    )
    write_dataset(root, dataset, safe, None, origin)


def finished(config: Config, workdir: Path) -> bool:
    """Whether the folder holds a finished run of this config."""
    if not (workdir / _DONE).exists():
        return False
    return not differences(config, (workdir / _CONFIG).read_text())


def run_one(config: Config, workdir: Path) -> None:
    """Runs all stages, or resumes them.

    Raises:
      ConfigMismatchError: if the folder holds a run with another config.
    """
    # These take seconds to import; finished repetitions do not need them.
    from proco_jax.common.compilation_cache import use_compilation_cache
    from proco_jax.common.sharding import use_cores_as_devices
    from proco_jax.pipeline.stages import run_all
    from proco_jax.pipeline.workdir import open_run

    use_compilation_cache()
    use_cores_as_devices(config.seeds)
    make_logs(config)
    with open_run(config, workdir, log=lambda line: print(line, flush=True)) as run:
        run_all(run)


def row_of(repetition: int, workdir: Path) -> Row:
    """The row of a finished repetition, read from its files."""
    (report,) = json.loads((workdir / _FORECAST).read_text()).values()
    (chosen,) = [row for row in report["rows"] if row["deployed"]]
    (evaluated,) = final_rows(load_rows(workdir / FILE)).values()
    costs = [cost for row in evaluated for cost in row["costs"]]
    violating = sum(cost > 0 for cost in costs)
    exact = binomtest(violating, len(costs)).proportion_ci(0.95, "exact")
    known = chosen["violating_episodes"] is not None
    return Row(
        repetition=repetition,
        qh_threshold=chosen["qh_threshold"],
        planner_threshold=chosen["planner_threshold"],
        forecast=chosen["violating_episodes"],
        low=chosen["interval_low"] if known else 0.0,
        high=chosen["interval_high"] if known else 1.0,
        imagined_violations=chosen["violating"],
        imagined_steps=chosen["steps"],
        violating=violating,
        episodes=len(costs),
        truth_low=float(exact.low),
        truth_high=float(exact.high),
    )


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """How often the interval covers the truth, and the means of both over repetitions.

    `covered` counts repetitions whose two intervals overlap, `above` and `below` those whose truth
    lies beyond the forecast's interval, and `inside` those whose measured share lies within it.
    """
    verdicts = [row.verdict for row in rows]
    forecasts = [row.forecast for row in rows if row.forecast is not None]
    return {
        "repetitions": len(rows),
        **{name: verdicts.count(name) for name in ("covered", "above", "below")},
        "inside": sum(row.low <= row.truth <= row.high for row in rows),
        "mean_forecast": sum(forecasts) / max(len(forecasts), 1),
        "mean_truth": sum(row.truth for row in rows) / len(rows),
    }


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, and the summary as a sentence."""
    head = ("repetition", "thresholds", "forecast", "interval")
    cells = [
        (
            r.repetition,
            f"{r.qh_threshold:g}, {r.planner_threshold:g}",
            "-" if r.forecast is None else f"{r.forecast:.1%}",
            f"{r.low:.1%} to {r.high:.1%}",
            f"{r.violating} of {r.episodes}",
            f"{r.truth_low:.1%} to {r.truth_high:.1%}",
            r.verdict,
        )
        for r in rows
    ]
    made = markdown_table((*head, "violating episodes", "interval", "truth is"), cells)
    s = summary(rows)
    return (
        f"{made}\nThe forecast's interval covers the truth in {s['covered']} of {s['repetitions']}"
        f" repetitions; the truth is above it in {s['above']} and below it in {s['below']}. Mean"
        f" forecast {s['mean_forecast']:.1%}, mean truth {s['mean_truth']:.1%}."
    )


if __name__ == "__main__":
    run()
