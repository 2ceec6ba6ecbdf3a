"""The logs of a run: finds or makes the dataset, applies the regime, and writes the card."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common import checksums
from proco_jax.config.schema import TABLE_SOURCES, Config
from proco_jax.data.card import card_lines, card_text, make_card, return_and_cost
from proco_jax.data.checks import (
    DataError,
    check_sizes,
    clip_actions,
    truncate_at_limit,
)
from proco_jax.data.collection import collect
from proco_jax.data.description import describe, find_run_task
from proco_jax.data.dsrl import import_dsrl
from proco_jax.data.episode_ends import correct_ends
from proco_jax.data.manifest import check_manifest
from proco_jax.data.minari_store import NO_COST, Stored, dataset_root, read_dataset
from proco_jax.data.regimes import Split, split_episodes
from proco_jax.data.tables import (
    log_notes,
    read_tables,
    rewards,
    scale_actions,
)
from proco_jax.observation import ObservationSpec
from proco_jax.report.dataset_picture import draw_dataset
from proco_jax.system.description import System, system_of, task_of
from proco_jax.types import Dataset, Episode

CARD = "dataset.json"
_NOTHING_HELD_OUT = (
    "no episode is held out (--config.data.holdout_share), so what is measured on held-out "
    "transitions and states is measured on those of training"
)


@dataclasses.dataclass(frozen=True)
class Logs:
    """The logs of a run.

    Attributes:
      episodes: training data of all models and policies.
      holdout: kept by the regime, but not used for training.
      dropped: left out by the regime. They serve diagnosis after training only;
        nothing may be trained or selected on them.
      split: the same three as indices into the dataset.
      spec: the fields of an observation.
      task: the name of the task.
      card: the content of `dataset.json`.
      digest: SHA-256 of all episodes and the split, independent of the file format.
    """

    episodes: list[Episode]
    holdout: list[Episode]
    dropped: list[Episode]
    split: Split
    spec: ObservationSpec
    task: str
    card: dict[str, Any]
    digest: str


def load_logs(config: Config, workdir: str | Path, log: Callable[[str], None] = print) -> Logs:
    """Finds or makes the dataset of a config, and splits it.

    Writes `dataset.json` and `pictures/dataset.png` into the workdir.

    Args:
      config: of the run; see `DataConfig`.
      workdir: of the run.
      log: takes lines of text for the user.

    Raises:
      DataError: if the data are missing, damaged, or of another task, if the
        regime keeps too few episodes, or if the run in the workdir was begun with other
        logs. No incomplete file remains.
      ValueError: on an unknown task where one must be known.
    """
    stored = _read(config, log)
    if not stored.episodes:
        raise DataError(f"{stored.dataset_id} has no episode; collect or import it again")
    spec = describe(stored, config.task, system_of(config))
    stored, clipped = _fit_actions(stored, config, spec, log)
    stored, dropped_cost, notes = _fix_ends(stored, config, log)
    # An episode that lost a costly transition is still one that violated.
    costs = [return_and_cost(e)[1] + x for e, x in zip(stored.episodes, dropped_cost, strict=True)]
    split = split_episodes(costs, config.data)
    if not split.holdout:
        log(f"{stored.dataset_id}: {_NOTHING_HELD_OUT}")
    digest = logs_digest(stored.episodes, split)
    _check_unchanged(Path(workdir) / CARD, stored.dataset_id, digest)
    card = make_card(stored, split, spec, config, clipped, digest, notes)
    _write_card(card, Path(workdir))
    for line in card_lines(card):
        log(line)
    train, holdout, dropped = ([stored.episodes[i] for i in part] for part in split)
    return Logs(train, holdout, dropped, split, spec, card["task"], card, digest)


def _read(config: Config, log: Callable[[str], None]) -> Stored:
    """The whole dataset; of a system of the user's own, with actions scaled to [-1, 1]."""
    system, source = system_of(config), config.data.source
    if system is not None and source.startswith(TABLE_SOURCES):
        logged = read_tables(source, system, config.data.gaps, log)
        return Stored(source, logged.episodes, {}, logged.unread_cost)
    root = dataset_root(config.data.root)
    dataset_id = find_dataset(config, root, log)
    if (root / dataset_id).is_dir():
        check_manifest(root / dataset_id, config.data.verify == "full", log)
    if system is None:
        return read_dataset(root, dataset_id)
    key = config.data.cost_key
    stored = read_dataset(root, dataset_id, key or "cost", cost_optional=not key)
    return stored._replace(episodes=_in_own_units(stored, system, log))


def _in_own_units(stored: Stored, system: System, log: Callable[[str], None]) -> list[Episode]:
    """The episodes with scaled actions and described rewards, and notes on what they lack."""
    size, actions = system.observation.size, len(system.actions)
    scaled = []
    for index, episode in enumerate(stored.episodes):
        name = f"{stored.dataset_id}, episode {index}"
        check_sizes(episode, size, actions, name)
        action = scale_actions(
            episode.action,
            system,
            lambda row, action, name=name: f"{name}, step {row}, action {action!r}",
        )
        reward = rewards(system, episode.obs, episode.reward)
        scaled.append(episode._replace(action=action.astype(np.float32), reward=reward))
    no_cost = "entry 'cost' in the infos" if stored.metadata.get(NO_COST) else ""
    for note in log_notes(scaled, system, no_cost) if scaled else ():
        log(f"{stored.dataset_id}: {note}")
    return scaled


def verify_logs(config: Config, workdir: Path, log: Callable[[str], None] = print) -> None:
    """Compares all bytes of the dataset of a begun run with its manifest.

    Raises:
      DataError: if they differ.
    """
    if not (workdir / CARD).exists() or config.data.source.startswith(TABLE_SOURCES):
        return  # Tables are read whole, and compared with the card, at every start.
    root = dataset_root(config.data.root)
    try:
        folder = root / json.loads((workdir / CARD).read_bytes())["dataset_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # Reported where the card is read.
    if folder.is_dir():
        check_manifest(folder, True, log)
    else:
        log(f"{folder}: the dataset is not there any more; there is nothing to verify")


def logs_digest(episodes: Sequence[Episode], split: Split) -> str:
    """SHA-256, in hex, of the content of all episodes and of their split."""
    found = hashlib.sha256()
    for episode in episodes:
        for array in (episode.obs, episode.action, episode.reward, episode.cost):
            found.update(str(array.shape).encode())
            found.update(np.ascontiguousarray(array, np.float32).tobytes())
        found.update(b"terminated" if episode.terminated else b"")
    for part in split:
        found.update(str([int(i) for i in part]).encode())
    return found.hexdigest()


def find_dataset(config: Config, root: Path, log: Callable[[str], None] = print) -> str:
    """The id of a config's dataset, which is collected or imported if necessary.

    Raises:
      DataError: if it cannot be collected or imported.
      ValueError: on an unknown task or source.
    """
    kind, _, name = config.data.source.partition(":")
    if kind == "collect":
        return collect(config, log)
    if kind == "minari" and name:
        return name
    if kind == "dsrl" and name:
        return import_dsrl(name, task_of(config), root, log)
    raise DataError(
        f"--config.data.source: found {config.data.source!r}, expected collect, "
        "minari:<dataset id> or dsrl:<file or task>"
    )


def to_dataset(episodes: Sequence[Episode]) -> Dataset:
    """Concatenates episodes to flat NumPy arrays that store every observation once.

    Raises:
      ValueError: if there is no episode.
    """
    if not episodes:
        raise ValueError("no episodes, expected at least one")
    lengths = np.array([len(e.reward) for e in episodes])
    episode = np.repeat(np.arange(len(episodes)), lengths)
    starts = np.cumsum(lengths) - lengths
    step = np.arange(lengths.sum()) - starts[episode]
    remaining = lengths[episode] - 1 - step
    terminated = np.array([e.terminated for e in episodes])
    return Dataset(
        obs=np.concatenate([e.obs for e in episodes]),
        # Each earlier episode has one observation more than transitions.
        obs_index=(np.arange(lengths.sum()) + episode).astype(np.int32),
        action=np.concatenate([e.action for e in episodes]),
        reward=np.concatenate([e.reward for e in episodes]),
        cost=np.concatenate([e.cost for e in episodes]),
        discount=np.where(terminated[episode] & (remaining == 0), 0, 1).astype(np.float32),
        episode=episode.astype(np.int32),
        remaining=remaining.astype(np.int32),
        step=step.astype(np.int32),
    )


def _fit_actions(
    stored: Stored, config: Config, spec: ObservationSpec, log: Callable[[str], None]
) -> tuple[Stored, int]:
    """Checks the sizes of all arrays, and clips actions as the simulator does."""
    task = find_run_task(config)
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


def _fix_ends(
    stored: Stored, config: Config, log: Callable[[str], None]
) -> tuple[Stored, list[float], list[str]]:
    """Marks terminations at the time limit as truncations, and drops transitions into resets.

    Returns:
      The dataset, the cost in each episode's logs that none of its steps has, and what was done.
    """
    own = bool(config.system.file)
    if own and config.data.source.startswith(TABLE_SOURCES):
        # A row follows another one in time: ends are where the table says.
        unread = list(stored.unread_cost)
        notes = [_unread_note(sum(cost > 0 for cost in unread))] if any(unread) else []
        for note in notes:
            log(f"{stored.dataset_id}: {note}")
        return stored, unread, notes
    # The logs of a system of the user's own may run on beyond the episodes of its policies.
    task = None if own else find_run_task(config)
    limit = task.episode_steps if task else None
    episodes, changed, inferred = truncate_at_limit(stored.episodes, limit)
    notes = []
    if changed:
        notes.append(
            f"{changed} of {len(episodes)} episodes are marked as terminated "
            f"at the time limit of {inferred} steps; they are treated as truncated there"
        )
    corrected = correct_ends(episodes, stored.dataset_id)
    notes += corrected.notes
    for note in notes:
        log(f"{stored.dataset_id}: {note}")
    for index, episode in enumerate(corrected.episodes):
        if task is not None and len(episode.reward) > task.episode_steps:
            raise DataError(
                f"{stored.dataset_id}, episode {index}: {len(episode.reward)} steps, but "
                f"{task.name} ends after {task.episode_steps}; mark the end of every episode"
            )
    return stored._replace(episodes=corrected.episodes), corrected.dropped_cost, notes


def _unread_note(count: int) -> str:
    return (
        f"{count} episode(s) count as violating because of a cost that belongs to none of their "
        "steps (in the first or last row, or in the gap after the episode)"
    )


def _check_unchanged(path: Path, dataset_id: str, digest: str) -> None:
    """Refuses logs other than those that the card of a begun run describes."""
    if not path.exists():
        return
    remedy = (
        f"if the dataset {dataset_id} has not changed since the run began, remove the file and run "
        "the same command again"
    )
    try:
        before = json.loads(checksums.read_recorded(path, remedy)).get("digest", digest)
    except (json.JSONDecodeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error
    except ValueError as error:
        raise DataError(str(error)) from error
    if before != digest:
        raise DataError(
            f"the run in {path.parent} began with other logs: the digest in {path.name} is "
            f"{before[:16]}..., that of the dataset {dataset_id} is now {digest[:16]}...; "
            "restore the dataset, or start a new run with another --workdir"
        )


def _write_card(card: dict[str, Any], workdir: Path) -> None:
    """Writes the card and its picture, unless they are up to date."""
    path, picture = workdir / CARD, workdir / "pictures" / "dataset.png"
    text = card_text(card)
    if path.exists() and path.read_text() == text and picture.exists():
        return
    draw_dataset(card, picture)
    checksums.write_recorded(path, text)
