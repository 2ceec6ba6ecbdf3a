"""The dataset card: statistics of the logs before and after the regime, and their provenance."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from proco_jax.config.schema import Config
from proco_jax.data.description import find_run_task
from proco_jax.data.minari_store import Stored
from proco_jax.data.regimes import Split
from proco_jax.observation import ObservationSpec
from proco_jax.types import Episode

QUANTILES = {
    "min": 0.0,
    "q10": 0.1,
    "q25": 0.25,
    "median": 0.5,
    "q75": 0.75,
    "q90": 0.9,
    "max": 1.0,
}


def make_card(
    stored: Stored,
    split: Split,
    spec: ObservationSpec,
    config: Config,
    clipped: int,
    digest: str,
    corrections: Sequence[str],
) -> dict[str, Any]:
    """The content of `dataset.json`.

    Args:
      stored: the dataset before the regime.
      split: the episodes that the run trains on, holds out, and drops.
      spec: the fields of an observation.
      config: of the run.
      clipped: number of steps whose action lay outside [-1, 1].
      digest: of the logs, see `Logs`.
      corrections: sentences on what was corrected, or must be known, about the logs.
    """
    task = find_run_task(config)
    kept = sorted([*split.train, *split.holdout])
    part = {i: name for name in Split._fields for i in getattr(split, name)}
    return {
        "dataset_id": stored.dataset_id,
        "digest": digest,
        "task": task.name if task else config.task,
        "cost_limit": config.cost_limit,
        "regime": config.data.regime,
        "limited_share": config.data.limited_share if config.data.regime == "limited" else None,
        "seed": config.data.seed,
        "support": _support([stored.episodes[i] for i in kept]),
        "before": summarize(stored.episodes),
        "after": summarize([stored.episodes[i] for i in kept]),
        "train": _extent([stored.episodes[i] for i in split.train]),
        "holdout": _extent([stored.episodes[i] for i in split.holdout]),
        "dropped": _extent([stored.episodes[i] for i in split.dropped]),
        "clipped_actions": clipped,
        "corrections": list(corrections),
        "observation": [{"name": f.name, "size": f.size, "unit": f.unit} for f in spec.fields],
        "provenance": {
            "source": stored.details.get("source", "minari"),
            "algorithm": stored.metadata.get("algorithm_name"),
            "description": stored.metadata.get("description"),
            "recipe": stored.details.get("recipe"),
            "versions": stored.details.get("versions"),
            "minari_version": stored.metadata.get("minari_version"),
        },
        "trajectories": [
            {"return": float(r), "cost": float(c), "steps": len(e.reward), "part": part[i]}
            for i, (e, (r, c)) in enumerate(
                zip(stored.episodes, map(return_and_cost, stored.episodes), strict=True)
            )
        ],
    }


def _support(episodes: Sequence[Episode]) -> dict[str, list[float]]:
    """The smallest and the largest of each number observed in the kept episodes."""
    low = np.min([e.obs.min(axis=0) for e in episodes], axis=0)
    high = np.max([e.obs.max(axis=0) for e in episodes], axis=0)
    return {"low": [float(x) for x in low], "high": [float(x) for x in high]}


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Counts of episodes and steps, and quantiles of return and cost over episodes."""
    sums = [return_and_cost(e) for e in episodes]
    costs = np.array([cost for _, cost in sums])
    return {
        **_extent(episodes),
        "terminated": sum(e.terminated for e in episodes),
        "violation_free_share": float((costs == 0).mean()),
        "return": _quantiles([r for r, _ in sums]),
        "cost": _quantiles([c for _, c in sums]),
    }


def return_and_cost(episode: Episode) -> tuple[float, float]:
    """The undiscounted sums of an episode's reward and cost."""
    return float(episode.reward.sum(dtype=np.float64)), float(episode.cost.sum(dtype=np.float64))


def card_text(card: dict[str, Any]) -> str:
    """The card as indented JSON, with one line per trajectory."""
    rows = ",\n    ".join(json.dumps(row) for row in card["trajectories"])
    head = json.dumps({**card, "trajectories": []}, indent=2)
    return head.replace('"trajectories": []', f'"trajectories": [\n    {rows}\n  ]') + "\n"


def card_lines(card: dict[str, Any]) -> list[str]:
    """A summary of the card, as lines for the terminal."""
    before, after = card["before"], card["after"]
    return [
        f"dataset {card['dataset_id']}: {before['episodes']} episodes, {before['steps']:,} steps, "
        f"{before['violation_free_share']:.0%} violation-free",
        f"regime {card['regime']}: {after['episodes']} episodes kept "
        f"({card['train']['episodes']} to train, {card['holdout']['episodes']} held out), "
        f"mean return {_range(after['return'])}, mean cost {_range(after['cost'])}",
    ]


def _range(quantiles: dict[str, float]) -> str:
    return f"{quantiles['mean']:.1f} ({quantiles['min']:.1f} to {quantiles['max']:.1f})"


def _extent(episodes: Sequence[Episode]) -> dict[str, int]:
    return {"episodes": len(episodes), "steps": sum(len(e.reward) for e in episodes)}


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    levels = {name: float(np.quantile(values, q)) for name, q in QUANTILES.items()}
    return {"mean": float(np.mean(values)), **levels}
