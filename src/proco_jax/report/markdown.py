"""`report.md`: the results of a run and the artifacts of its stages, for a person to read.

The report shows the artifacts that are in the workdir and names those that are
not. It can be written again at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from proco_jax.common import checksums, metrics
from proco_jax.common.checksums import MADE_OF
from proco_jax.common.files import write_text
from proco_jax.config.schema import RULES_ALONE
from proco_jax.evaluation import results
from proco_jax.report import pictures
from proco_jax.report.gains import GAINS_CAPTION, gains_markdown
from proco_jax.report.nested_tables import nested_tables
from proco_jax.report.tables import (
    CAPTION,
    Summary,
    logs_name,
    markdown_table,
    number,
    summarize,
    summary_markdown,
)

FILE = "report.md"
PICTURES = "pictures"
# Names that end the stages of second parts of a training.
_SECOND_PARTS = ("trajectories", "imagination")


def write_report(workdir: Path) -> Path:
    """Draws the pictures of the results and metrics, and writes `report.md` atomically.

    Args:
      workdir: folder of a run.

    Returns:
      The path of the report.

    Raises:
      FileNotFoundError: if the folder does not exist.
      ValueError: if one of its files is damaged.
    """
    if not workdir.is_dir():
        raise FileNotFoundError(f"no folder {workdir}: expected the workdir of a run")
    shown: set[Path] = set()
    sections = [_head(workdir), _results(workdir, shown)]
    sections += [_section(workdir, section, shown) for section in _SECTIONS]
    sections += [_training(workdir, shown), _other_pictures(workdir, shown)]
    write_text(workdir / FILE, "\n".join(section for section in sections if section))
    return workdir / FILE


def results_markdown(summaries: Sequence[Summary]) -> str:
    """The table of results and the table of gains, each with its caption."""
    gains = gains_markdown(summaries)
    if not gains:
        gains = "No two policies differ in their augmentation or shield only.\n"
    else:
        gains += f"\n{GAINS_CAPTION}\n"
    table = f"{summary_markdown(summaries)}\n{CAPTION}\n"
    return f"{table}\n### Gains from training and from the shield\n\n{gains}"


def _head(workdir: Path) -> str:
    config = checksums.read_json(workdir / "config.json")
    if config is None:
        return "# Report\n\nNo `config.json`: the settings of this run are not known.\n"

    def setting(name: str) -> Any:
        value = config
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ValueError(
                    f"{workdir / 'config.json'} has no setting {name!r}: expected the config "
                    "of a run of this version"
                )
            value = value[part]
        return value

    def listed(name: str) -> str:
        return ", ".join(setting(name))

    logs = logs_name(setting("data.source"), setting("data.regime"))
    rows = [
        ("experiment", f"{setting('experiment')}, variant {setting('variant')}"),
        ("task", setting("task")),
        ("logs", logs),
        ("algorithms", listed("algorithms")),
        ("augmentations", listed("augmentations")),
        ("shields", listed("shields")),
        ("seeds", f"{setting('seeds')}, the first is {setting('seed')}"),
        ("training steps", number(setting("train.steps"))),
        ("cost limit", number(setting("cost_limit"))),
        ("labels from", f"{setting('knowledge.labeler')}, {setting('knowledge.model')}"),
    ]
    title = f"# {setting('experiment')}, variant {setting('variant')}: {setting('task')}\n"
    table = markdown_table(["setting", "value"], rows, text_columns=2)
    return f"{title}\n{table}\nAll settings are in `config.json`.\n"


def _results(workdir: Path, shown: set[Path]) -> str:
    path = workdir / results.FILE
    rows = results.load_rows(path) if path.exists() else []
    if not rows:
        reason = f"`{results.FILE}` has no rows" if path.exists() else f"No `{results.FILE}`"
        return f"## Results\n\n{reason}: no policy has been evaluated yet.\n"
    folder = workdir / PICTURES
    summaries = summarize(rows)
    drawn = [pictures.results_picture(folder / "results.png", summaries)]
    steps: dict[tuple[str, ...], set[int]] = {}
    for row in rows:
        steps.setdefault(results.policy_of(row), set()).add(row["step"])
    if max(map(len, steps.values())) > 1:
        drawn.append(pictures.learning_curves(folder / "learning_curves.png", rows))
    final = [row for group in results.final_rows(rows).values() for row in group]
    provenance = dict.fromkeys(_provenance(row) for row in final)
    return "\n".join(
        [
            "## Results\n",
            results_markdown(summaries),
            *_embedded(workdir, drawn, shown),
            *(f"Evaluated with {text}.\n" for text in provenance),
            *_embedded(workdir, sorted(folder.glob("*.gif")), shown),
        ]
    )


def _provenance(row: results.Row) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return f"commit {row['commit']} on {row['device']}, settings {row['settings']}, {packages}"


class _Section(NamedTuple):
    """A section of the report that shows one artifact.

    Attributes:
      heading: of the section.
      file: the artifact.
      text: what its numbers are.
      pictures: beginnings of the names of its pictures.
      tables: from the content of the file to Markdown.
      optional: whether the section is left out where the file is missing.
    """

    heading: str
    file: str
    text: str
    pictures: tuple[str, ...]
    tables: Callable[[Any], str] = nested_tables
    optional: bool = False


def _section(workdir: Path, section: _Section, shown: set[Path]) -> str:
    content = checksums.read_json(workdir / section.file)
    if content is None and section.optional:
        return ""
    if content is None:
        return f"## {section.heading}\n\nNo `{section.file}`: this stage has not run.\n"
    folder = workdir / PICTURES
    if section.file == "dynamics.json" and content.get("open_loop"):
        # Older reports name no unit: theirs are of distances.
        unit = content.get("unit", "m")
        pictures.open_loop_curves(folder / "open_loop.png", content["open_loop"], unit)
    drawn = [
        path
        for name in section.pictures
        for path in sorted(folder.glob(f"{name}*.png"))
        if path not in shown
    ]
    content.pop(MADE_OF, None)
    text = [section.text + "\n"] if section.text else []
    tables = section.tables(content)
    return "\n".join([f"## {section.heading}\n", *text, tables, *_embedded(workdir, drawn, shown)])


def _dataset_tables(card: Mapping[str, Any]) -> str:
    """The card without its list of trajectories, which a picture shows."""
    parts = ("before", "after", "train", "holdout", "dropped")
    sizes = {
        name: {key: card[name].get(key) for key in ("episodes", "steps", "violation_free_share")}
        for name in parts
        if name in card
    }
    quantiles = {
        f"{key} {name} the regime": card[name][key]
        for key in ("return", "cost")
        for name in ("before", "after")
        if key in card.get(name, {})
    }
    nested = {*parts, "trajectories", "observation", "support"}
    rest = {key: value for key, value in card.items() if key not in nested}
    return nested_tables({"logs": sizes, "quantiles over trajectories": quantiles} | rest)


def _forecast_tables(content: Mapping[str, Any]) -> str:
    header = [
        "policy",
        "margin of the planner",
        "least reward",
        "threshold of the planner",
        "deployed",
        "violating episodes",
        "interval",
        "violating trajectories",
        "steps",
    ]
    rows = [
        [
            name,
            number(report.get("margin")),
            number(report.get("least_reward")),
            "rules alone"
            if row["planner_threshold"] >= RULES_ALONE
            else number(row["planner_threshold"]),
            number(row["deployed"]),
            number(row["violating_episodes"]),
            f"[{number(row['interval_low'])}, {number(row['interval_high'])}]",
            f"{number(row['violating'])} of {number(row['trajectories'])}",
            number(row["steps"]),
        ]
        for name, report in content.items()
        for row in report["rows"]
    ]
    return markdown_table(header, rows)


def _offline_tables(content: Mapping[str, Any]) -> str:
    header = [
        "policy",
        "violating episodes",
        "interval",
        "bound",
        "return",
        "interval of the return",
        "episodes that leave the model's knowledge",
        "known steps",
        "outside of the logged range",
    ]
    rows = []
    for name, report in content["policies"].items():
        earned = report["return"] or {"mean": None, "low": None, "high": None}
        outside = [f"{field} {share:.1%} of steps" for field, share in report["outside"].items()]
        rows.append(
            [
                name,
                number(report["violating_episodes"]),
                f"[{number(report.get('interval_low'))}, {number(report.get('interval_high'))}]",
                number(report["bound"]),
                number(earned["mean"]),
                f"[{number(earned['low'])}, {number(earned['high'])}]",
                number(report["leaving_support"]),
                number(report["known_steps"]),
                ", ".join(outside) or "none",
            ]
        )
    logged = nested_tables({"logged_return": content["logged_return"]})
    model = content["model"]
    held_out = (
        f"{model['unknown']}\n"
        if "unknown" in model
        else f"The model on {model['held_out_episodes']} held-out episodes. *One step*: share of "
        f"logged changes inside of its {model['stated']:.0%} interval. *Stretches*: mean absolute "
        "error after so many imagined steps with the logged actions, as a share of that of a "
        "forecast without change. *Largest margin*: of whole episodes, imagined and logged, in the "
        "unit of the rule.\n"
    )
    return "\n".join(
        [
            markdown_table(header, rows),
            logged,
            held_out,
            nested_tables({k: v for k, v in model.items() if k in _OFFLINE_MODEL}),
            f"**{content['cannot_tell']}**\n",
        ]
    )


_OFFLINE_MODEL = ("one_step", "stretches", "largest_margin")
_SECTIONS = (
    _Section("Logs", "dataset.json", "", ("dataset",), _dataset_tables),
    _Section(
        "Dynamics model",
        "dynamics.json",
        "R2 on held-out transitions by sensor group, beside persistence (the state does not "
        "change) and ridge regression. Open loop: the distance to the unsafe set, and to the "
        "nearest object of each lidar ring, predicted with the logged actions until the first "
        "violation.",
        ("open_loop", "dynamics"),
    ),
    _Section(
        "Cost network",
        "cost.json",
        "Recall and precision on held-out labels. Values named `true` compare with the "
        "simulator's cost; they are a diagnosis only, no part of the training uses them.",
        ("cost",),
    ),
    _Section(
        "Imagined rollouts",
        "rollouts.json",
        "Rollouts of each policy in the dynamics model at the end of training.",
        ("rollouts",),
    ),
    _Section(
        "Feasibility critics",
        "feasibility.json",
        "The share of held-out, violation-free states that V_h calls infeasible, and the AUROC of "
        "V_h for a violation within the given number of steps, beside a trivial score (the "
        "distance to the nearest obstacle). Means over seeds.",
        ("feasibility", "v_h"),
    ),
    _Section(
        "Violation forecast",
        "violation_forecast.json",
        "The share of episodes that a policy is expected to violate in, estimated from rollouts "
        "in the dynamics model, without the simulator, for thresholds of the planner. `deployed` "
        "marks the threshold of V_h that the policy is deployed with. None is forecast where the "
        "rules alone are within the target violation rate, nor any above one that exceeds it. The "
        "planner widens the rules by its margin, in their unit, and searches for reward where the "
        "policy is predicted to earn less than the least reward in the planner's horizon.",
        (),
        _forecast_tables,
    ),
    _Section(
        "Offline evaluation",
        "offline_evaluation.json",
        "What logs and model tell of the policies without a trial. The share of violating "
        "episodes is forecast by imagined episodes from logged first observations, with an "
        "interval of 95% on either side that holds only if the model is right. The bound needs no "
        "right model: it counts imagined episodes whose largest margin, raised by what the model "
        "erred on held-out episodes, reaches the unsafe set or that leave what the model knows, "
        "and adds the 10% of the errors that may be larger; it holds for as many steps as half of "
        "the held-out episodes have. It assumes that the held-out episodes "
        "and those of the policy are exchangeable, in particular that the model errs no more under "
        "the policy than it does on the logs.",
        (),
        _offline_tables,
        optional=True,
    ),
    _Section("Time", "timing.json", "Wall time of each stage in seconds.", ("timing",)),
)


def _training(workdir: Path, shown: set[Path]) -> str:
    if not (workdir / metrics.FILE).exists():
        return f"## Training metrics\n\nNo `{metrics.FILE}`: nothing has been trained yet.\n"
    families: dict[str, list[dict[str, Any]]] = {}
    for line in metrics.load_metrics(workdir / metrics.FILE):
        if any(value is not None for name, value in line.items() if name not in ("stage", "step")):
            families.setdefault(_family(line["stage"]), []).append(line)
    drawn = [
        pictures.metric_curves(
            workdir / PICTURES / f"metrics-{family}.png",
            lines,
            f"{family}: means over {'seeds' if family.startswith('train') else 'members'}",
        )
        for family, lines in families.items()
    ]
    return "\n".join(["## Training metrics\n", *_embedded(workdir, drawn, shown)])


def _family(stage: str) -> str:
    """The picture of a stage; second parts of a training have steps and losses of their own."""
    first, *others = stage.split("/")
    return "-".join([first, *(part for part in others[-1:] if part in _SECOND_PARTS)])


def _other_pictures(workdir: Path, shown: set[Path]) -> str:
    rest = [path for path in sorted((workdir / PICTURES).glob("*.png")) if path not in shown]
    return "\n".join(["## Other pictures\n", *_embedded(workdir, rest, shown)]) if rest else ""


def _embedded(workdir: Path, paths: Sequence[Path], shown: set[Path]) -> list[str]:
    """The pictures, each followed by its caption if it has one."""
    shown.update(paths)
    lines = []
    for path in paths:
        name = path.stem.replace("_", " ")
        lines.append(f"![{name}]({path.relative_to(workdir).as_posix()})\n")
        if path.stem in _CAPTIONS:
            lines.append(f"*{_CAPTIONS[path.stem]}*\n")
    return lines


_CAPTIONS = {
    "results": pictures.RESULTS_CAPTION,
    "learning_curves": (
        "Evaluations during training: means over seeds, with a band from the lowest seed to the "
        "highest."
    ),
    "dataset": (
        "Above, the trajectories with violations; below, the returns of the violation-free ones."
    ),
    "open_loop": (
        "Error of the predicted distances, and correlation of predicted and true changes of "
        "distance, against the prediction horizon."
    ),
    "cost": (
        "Left, if rules define distances, the mean prediction for held-out states by distance and "
        "approach speed (empty cells have too few states). Right, its calibration."
    ),
    "feasibility_map": (
        "V_h, mean over seeds, over positions of the robot around one obstacle. The solid line is "
        "V_h = 0, the dashed circle is the unsafe set."
    ),
}
