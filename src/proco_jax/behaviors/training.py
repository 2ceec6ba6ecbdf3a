"""Trains behavior policies of a task: rounds of updates, each checkpointed.

A round begins its worlds anew and depends on its number and the learner only, so a resumed training
equals an uninterrupted one bit for bit.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from proco_jax.behaviors.ppo import (
    SMALLEST_DEVIATION,
    Learner,
    Metrics,
    PPOSettings,
    init_learner,
)
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.common.files import write_text
from proco_jax.common.progress import progress
from proco_jax.envs.behavior_file import BehaviorPolicies

# Shares of the training after which a snapshot is kept: early ones are the worse policies of a log.
SNAPSHOTS = (0.1, 0.25, 0.5, 1.0)


class Phase(Protocol):
    """A part of a training, in one kind of worlds.

    Attributes:
      name: for the user.
      rounds: number of rounds.
    """

    name: str
    rounds: int

    def run(self, number: int, key: jax.Array, learner: Learner) -> tuple[Learner, Metrics]:
        """The updates of round `number` of the phase."""
        ...


@struct.dataclass
class Training:
    """The state of a training.

    Attributes:
      learner: as it is now.
      snapshots: policies and normalizers kept so far, `[K, ...]`; zeros where not reached yet.
      seconds: of work so far.
    """

    learner: Learner
    snapshots: Any
    seconds: jax.Array


def train(
    folder: Path,
    key: jax.Array,
    settings: PPOSettings,
    sizes: tuple[int, int],
    phases: list[Phase],
    log: Callable[[str], None],
    identity: dict[str, Any],
) -> Training:
    """Trains, or continues where an earlier call was interrupted.

    Args:
      folder: of the checkpoints.
      key: of the training.
      settings: of the learner.
      sizes: numbers of inputs and actions.
      phases: one after the other.
      log: takes lines of text for the user.
      identity: plain values that determine the training; checkpoints of another are removed.

    Raises:
      FloatingPointError: if the training diverges.
      CheckpointError: if no checkpoint can be read.
    """
    _open(folder, identity, log)
    state = _fresh(key, settings, sizes)
    rounds = [(phase, k) for phase in phases for k in range(phase.rounds)]
    due = [max(1, round(share * len(rounds))) for share in SNAPSHOTS]
    with Checkpoints(folder / "rounds") as saved:
        found = saved.restore(state)
        done, state = (0, state) if found is None else found
        if done:
            log(f"resuming after round {done} of {len(rounds)}")
        with progress("training", len(rounds), log, done) as advance:
            for number in range(done, len(rounds)):
                phase, k = rounds[number]
                begun = time.monotonic()
                own = jax.random.fold_in(key, number + 1)
                learner, metrics = phase.run(k, own, state.learner)
                _check(learner, phase.name, k)
                snapshots = state.snapshots
                for slot in (i for i, at in enumerate(due) if at == number + 1):
                    snapshots = _kept(snapshots, slot, learner)
                spent = state.seconds + jnp.float32(time.monotonic() - begun)
                state = Training(learner, snapshots, spent)
                saved.save(number + 1, state)
                advance(1)
                log(_line(phase, k, metrics))
    return state


def finished_policies(training: Training, header: dict[str, Any]) -> BehaviorPolicies:
    """The snapshots of a finished training, as a file holds them."""
    kept = jax.tree.map(np.asarray, training.snapshots)
    layers, normalizer = kept["policy"]["layers"], kept["normalizer"]
    deviation = np.sqrt(normalizer.square / np.maximum(normalizer.count, 1.0)[:, None])
    scale = np.where(deviation > SMALLEST_DEVIATION, 1.0 / np.maximum(deviation, 1e-9), 0.0)
    return BehaviorPolicies(
        header=header,
        shift=normalizer.mean.astype(np.float32),
        scale=scale.astype(np.float32),
        weights=tuple(layer["weight"] for layer in layers),
        biases=tuple(layer["bias"] for layer in layers),
        log_std=kept["policy"]["log_std"],
    )


def _open(folder: Path, identity: dict[str, Any], log: Callable[[str], None]) -> None:
    """Makes the folder; keeps earlier checkpoints only if they are of the same training."""
    path = folder / "training.json"
    wanted = json.loads(json.dumps(identity))
    if folder.exists():
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            found = None
        if found != wanted:
            log("the unfinished training was begun with other settings; starting again")
            shutil.rmtree(folder)
    write_text(path, json.dumps(wanted, indent=1) + "\n")


def _fresh(key: jax.Array, settings: PPOSettings, sizes: tuple[int, int]) -> Training:
    learner = init_learner(jax.random.fold_in(key, 0), settings, *sizes)
    empty = jax.tree.map(
        lambda x: jnp.zeros((len(SNAPSHOTS), *x.shape), x.dtype), _snapshot(learner)
    )
    return Training(learner, empty, jnp.zeros(()))


def _kept(snapshots: Any, slot: int, learner: Learner) -> Any:
    own = _snapshot(learner)
    return jax.tree.map(lambda all_, one: all_.at[slot].set(one), snapshots, own)


def _snapshot(learner: Learner) -> Any:
    return {"policy": learner.params["policy"], "normalizer": learner.normalizer}


def _check(learner: Learner, phase: str, number: int) -> None:
    finite = [bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(learner)]
    if not all(finite):
        raise FloatingPointError(
            f"the training diverged in round {number} {phase}: numbers are not finite"
        )


def _line(phase: Phase, number: int, metrics: Metrics) -> str:
    shown = ", ".join(f"{name} {float(value):.3g}" for name, value in metrics.items())
    return f"{phase.name}, round {number + 1} of {phase.rounds}: {shown}"
