"""From a config to logs: finds or makes the dataset, applies the regime, writes the card."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import write_text
from proco_jax.config.schema import Config
from proco_jax.data.card import card_lines, card_text, make_card, return_and_cost
from proco_jax.data.checks import DataError, check_sizes, clip_actions
from proco_jax.data.collection import collect
from proco_jax.data.description import describe, find_task
from proco_jax.data.dsrl import import_dsrl
from proco_jax.data.minari_store import Stored, dataset_root, read_dataset
from proco_jax.data.regimes import Split, split_episodes
from proco_jax.envs.tasks import get_task
from proco_jax.observation import ObservationSpec
from proco_jax.report.dataset_picture import draw_dataset
from proco_jax.types import Dataset, Episode


@dataclasses.dataclass(frozen=True)
class Logs:
    """The logs of a run.

    Attributes:
      episodes: what every part trains on.
      holdout: kept by the regime, but trained on by no part.
      dropped: left out by the regime. For diagnosis after training only: no
        part may train on them or be chosen by them.
      split: the same three as indices into the dataset.
      spec: the fields of an observation.
      task: the name of the task.
      card: what `dataset.json` says.
    """

    episodes: list[Episode]
    holdout: list[Episode]
    dropped: list[Episode]
    split: Split
    spec: ObservationSpec
    task: str
    card: dict[str, Any]


def load_logs(config: Config, workdir: str | Path, log: Callable[[str], None] = print) -> Logs:
    """Finds or makes the dataset of a config, and splits it.

    Writes `dataset.json` and `pictures/dataset.png` into the workdir.

    Args:
      config: of the run; see `DataConfig`.
      workdir: of the run.
      log: takes lines for the user.

    Raises:
      DataError: if the data are missing, damaged, of another task, or the
        regime leaves nothing; nothing half-written stays.
      ValueError: on an unknown task where one must be known.
    """
    root = dataset_root(config.data.root)
    stored = read_dataset(root, find_dataset(config, root, log))
    if not stored.episodes:
        raise DataError(f"{stored.dataset_id} has no episode; collect or import it again")
    spec = describe(stored, config.task)
    stored, clipped = _fit_actions(stored, config, spec, log)
    split = split_episodes([return_and_cost(e)[1] for e in stored.episodes], config.data)
    card = make_card(stored, split, spec, config, clipped)
    _write_card(card, Path(workdir))
    for line in card_lines(card):
        log(line)
    train, holdout, dropped = ([stored.episodes[i] for i in part] for part in split)
    return Logs(train, holdout, dropped, split, spec, card["task"], card)


def find_dataset(config: Config, root: Path, log: Callable[[str], None] = print) -> str:
    """The id of the dataset that a config names, made first if need be.

    Raises:
      DataError: if it can't be had.
      ValueError: on an unknown task or source.
    """
    kind, _, name = config.data.source.partition(":")
    if kind == "collect":
        return collect(config, log)
    if kind == "minari" and name:
        return name
    if kind == "dsrl" and name:
        return import_dsrl(name, get_task(config.task), root, log)
    raise DataError(
        f"--config.data.source: found {config.data.source!r}, expected collect, "
        "minari:<dataset id> or dsrl:<file or task>"
    )


def to_dataset(episodes: Sequence[Episode]) -> Dataset:
    """Episodes as flat NumPy arrays, every observation stored once.

    Raises:
      ValueError: if there is no episode.
    """
    if not episodes:
        raise ValueError("no episode to learn from")
    lengths = np.array([len(e.reward) for e in episodes])
    episode = np.repeat(np.arange(len(episodes)), lengths)
    starts = np.cumsum(lengths) - lengths
    step = np.arange(lengths.sum()) - starts[episode]
    remaining = lengths[episode] - 1 - step
    terminated = np.array([e.terminated for e in episodes])
    return Dataset(
        obs=np.concatenate([e.obs for e in episodes]),
        # Each episode before adds one row more than it has transitions.
        obs_index=(np.arange(lengths.sum()) + episode).astype(np.int32),
        action=np.concatenate([e.action for e in episodes]),
        reward=np.concatenate([e.reward for e in episodes]),
        cost=np.concatenate([e.cost for e in episodes]),
        discount=np.where(terminated[episode] & (remaining == 0), 0, 1).astype(np.float32),
        episode=episode.astype(np.int32),
        remaining=remaining.astype(np.int32),
    )


def _fit_actions(
    stored: Stored, config: Config, spec: ObservationSpec, log: Callable[[str], None]
) -> tuple[Stored, int]:
    """Checks every width, and clips actions as the simulator does."""
    task = find_task(config.task)
    action_size = task.action_size if task else stored.episodes[0].action.shape[1]
    for index, episode in enumerate(stored.episodes):
        check_sizes(episode, spec.size, action_size, f"{stored.dataset_id}, episode {index}")
    episodes, clipped = clip_actions(stored.episodes)
    found = f"{stored.dataset_id}: {clipped:,} actions lie outside [-1, 1]"
    if clipped and task is None:
        raise DataError(f"{found}; scale the actions of your data to [-1, 1]")
    if clipped:
        log(f"{found} and are clipped, as the simulator does")
    return stored._replace(episodes=episodes), clipped


def _write_card(card: dict[str, Any], workdir: Path) -> None:
    """Writes card and picture, unless they are there already."""
    path, picture = workdir / "dataset.json", workdir / "pictures" / "dataset.png"
    text = card_text(card)
    if path.exists() and path.read_text() == text and picture.exists():
        return
    draw_dataset(card, picture)
    write_text(path, text)
