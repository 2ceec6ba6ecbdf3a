"""`report.md`: everything a run has left in its workdir, for a person to read.

Each part of a run leaves a JSON file. The report shows those that are there
and says which are not; it can be written anew at any time.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proco_jax.common import metrics
from proco_jax.common.files import write_text
from proco_jax.evaluation import results
from proco_jax.report import pictures
from proco_jax.report.nested_tables import tidy
from proco_jax.report.tables import CAPTION, markdown_table, number, summarize, summary_markdown

FILE = "report.md"

# Heading, file, what its numbers are, and how its pictures' names begin.
PARTS = (
    ("Data", "dataset.json", "", ("dataset",)),
    (
        "Dynamics",
        "dynamics.json",
        "R2 on held-out transitions by sensor group, against persistence (nothing changes) and "
        "ridge regression; below, the distance to the unsafe set predicted open loop with logged "
        "actions, and the distance to the nearest object of each ring, until something is "
        "violated.",
        ("open_loop", "dynamics"),
    ),
    (
        "Cost",
        "cost.json",
        "Recall and precision on held-out labels; `true` ones against the simulator's cost are a "
        "diagnosis that no part of the training sees.",
        ("cost",),
    ),
    ("Imagined rollouts", "rollouts.json", "", ("rollouts",)),
    (
        "Feasibility",
        "feasibility.json",
        "The share of held-out, violation-free logged states called infeasible, and the AUROC of "
        "V_h for a violation within so many steps, beside the trivial score (nearest distance).",
        ("feasibility", "v_h"),
    ),
    (
        "Foreseen",
        "foreseen.json",
        "How often PROCO's policies violate, by the fitted model alone: followed from held-out "
        "logged states for 125 steps, of which the first 25 do not count, as long as the elites "
        "agree. `violating episodes` is the share that this comes to over a whole episode, with "
        "the bounds of the config first; `deployed` tells those that were taken, the boldest "
        "within `agent.risk` even if one more had violated.",
        (),
    ),
    ("Time", "timing.json", "Wall time by stage, in seconds.", ("timing",)),
)


def write_report(workdir: Path) -> Path:
    """Draws the pictures that can be drawn and writes `report.md` atomically.

    Args:
      workdir: folder of a run.

    Returns:
      The path of the report.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if one of its files isn't what it should be.
    """
    if not workdir.is_dir():
        raise FileNotFoundError(f"no folder {workdir}: expected the workdir of a run")
    shown: set[Path] = set()
    sections = [_head(workdir), _results(workdir, shown)]
    for heading, file, words, names in PARTS:
        sections.append(_part(workdir, heading, file, words, names, shown))
    sections += [_training(workdir, shown), _other_pictures(workdir, shown)]
    write_text(workdir / FILE, "\n".join(section for section in sections if section))
    return workdir / FILE


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is none.

    Raises:
      ValueError: if it isn't JSON.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run again") from error


def _head(workdir: Path) -> str:
    config = read_json(workdir / "config.json")
    if config is None:
        return "# Report\n\nNo `config.json`: what was run isn't known.\n"
    rows = [
        ("task", config["task"]),
        ("logs", f"{config['data']['source']}, regime `{config['data']['regime']}`"),
        ("policies", f"{config['seeds']} seeds from {config['seed']}"),
        ("training steps", number(config["train"]["steps"])),
        ("generated costs", number(config["proco"]["enabled"])),
        (
            "unsafe states from",
            f"{config['knowledge']['labeller']}, {config['knowledge']['model']}",
        ),
    ]
    title = f"# {config['experiment']}, variant {config['variant']}: {config['task']}\n"
    return f"{title}\n{markdown_table(['setting', 'value'], rows)}\nAll settings: `config.json`.\n"


def _results(workdir: Path, shown: set[Path]) -> str:
    if not (workdir / results.FILE).exists():
        return f"## Results\n\nNo `{results.FILE}`: no policy has been evaluated yet.\n"
    rows = results.load_rows(workdir / results.FILE)
    if not rows:
        return f"## Results\n\n`{results.FILE}` holds no row yet.\n"
    folder = workdir / "pictures"
    card = read_json(workdir / "dataset.json")
    drawn = [pictures.policy_scatter(folder / "policies.png", rows, card)]
    if len({row["step"] for row in rows}) > 1:
        drawn.append(pictures.learning_curves(folder / "learning_curves.png", rows))
    animations = sorted(folder.glob("*.gif"))
    last = {row["algorithm"]: row for row in rows}.values()
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in row["versions"].items()) for row in last
    )
    return "\n".join(
        [
            "## Results\n",
            summary_markdown(summarize(rows)),
            CAPTION + "\n",
            *(f"Versions: {text}.\n" for text in versions),
            *_embedded(workdir, [*drawn, *animations], shown),
        ]
    )


def _part(
    workdir: Path, heading: str, file: str, words: str, names: Sequence[str], shown: set[Path]
) -> str:
    content = read_json(workdir / file)
    if content is None:
        return f"## {heading}\n\nNo `{file}`: this part hasn't run, or has nothing to say.\n"
    if file == "dynamics.json" and content.get("open_loop"):
        pictures.open_loop_curves(workdir / "pictures" / "open_loop.png", content["open_loop"])
    body = _data_card(content) if file == "dataset.json" else tidy(content)
    found = [
        path
        for name in names
        for path in sorted((workdir / "pictures").glob(f"{name}*"))
        if path not in shown
    ]
    intro = [words + "\n"] if words else []
    return "\n".join([f"## {heading}\n", *intro, body, *_embedded(workdir, found, shown)])


def _data_card(card: Mapping[str, Any]) -> str:
    """The card without its list of trajectories, which the scatter shows."""
    extents = {
        name: {key: card[name].get(key) for key in ("episodes", "steps", "violation_free_share")}
        for name in ("before", "after", "train", "holdout", "dropped")
        if name in card
    }
    spreads = {
        f"{key} {name} the regime": card[name][key]
        for key in ("return", "cost")
        for name in ("before", "after")
        if key in card.get(name, {})
    }
    nested = {"before", "after", "train", "holdout", "dropped", "trajectories", "observation"}
    rest = {key: value for key, value in card.items() if key not in nested}
    return tidy({"logs": extents, "quantiles over trajectories": spreads} | rest)


def _training(workdir: Path, shown: set[Path]) -> str:
    if not (workdir / metrics.FILE).exists():
        return f"## Training\n\nNo `{metrics.FILE}`: nothing has been trained yet.\n"
    families: dict[str, list[dict[str, Any]]] = {}
    for line in metrics.load_metrics(workdir / metrics.FILE):
        if any(value is not None for name, value in line.items() if name not in ("stage", "step")):
            families.setdefault(line["stage"].split("/")[0], []).append(line)
    drawn = [
        pictures.metric_curves(
            workdir / "pictures" / f"metrics-{family}.png", lines, f"{family}: means over seeds"
        )
        for family, lines in families.items()
    ]
    return "\n".join(["## Training\n", *_embedded(workdir, drawn, shown)])


def _other_pictures(workdir: Path, shown: set[Path]) -> str:
    rest = [path for path in sorted((workdir / "pictures").glob("*.png")) if path not in shown]
    return "\n".join(["## More pictures\n", *_embedded(workdir, rest, shown)]) if rest else ""


def _embedded(workdir: Path, paths: Sequence[Path], shown: set[Path]) -> list[str]:
    shown.update(paths)
    return [
        f"![{path.stem.replace('_', ' ')}]({path.relative_to(workdir).as_posix()})\n"
        for path in paths
    ]
