"""Policies of several configs trained as members of one compiled program.

Configs may be members if they differ only in hyperparameters, the arguments of the program. Their
seeds are members too. Each config's policies become the artifact that its own training would have
made, so that `stages` finds them in the store.
"""

import dataclasses
import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.augmentation.base import Context
from proco_jax.common import sharding
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.common.random_streams import Stream, stream_keys
from proco_jax.deployment.policy import policy_name
from proco_jax.pipeline.checkpointed_fit import run_fit
from proco_jax.pipeline.policies import Learner, compiled, training_inputs
from proco_jax.pipeline.store import artifact, digest, has_artifact
from proco_jax.pipeline.workdir import Run
from proco_jax.training import loop
from proco_jax.training.loop import Program, TrainState

CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Member:
    """A policy to train.

    Attributes:
      program: made of its config; those of all members differ in `Hyper` alone.
      index: of its seed, from 0.
    """

    program: Program
    index: int


def train_configs(
    run: Run,
    programs: Sequence[Program],
    context: Context,
    learner: Learner,
    made_of: Mapping[str, Any],
    limit: int = 0,
) -> None:
    """Trains the policies of all configs that the store lacks, and puts them into the store.

    Args:
      run: its workdir takes checkpoints until all is done, and its metrics those of all members.
      programs: one for each config.
      context: on one device.
      learner: algorithm and augmentation.
      made_of: content hashes of the logs and of the world model that the context holds.
      limit: members trained at once, the others follow; 0 for all.
    """
    wanted = {}
    for program in programs:
        inputs = training_inputs(program, learner, made_of)
        if not has_artifact(run.store, "policies", inputs, run.log):
            # Configs that differ in what this training does not read are the same training.
            wanted.setdefault(digest(inputs), (program, inputs))
    scratch = run.workdir / "training" / policy_name(learner.algorithm, learner.augmentation)
    for i, group in enumerate(member_groups([program for program, _ in wanted.values()], limit)):
        states = [
            _train_part(run, f"{i}-{j}", scratch, part, context, learner, made_of)
            for j, part in enumerate(group)
        ]
        for program, inputs in wanted.values():
            if any(member.program is program for member in group[0]):
                _save(run, program, group, states, inputs)
    shutil.rmtree(scratch, ignore_errors=True)


def member_groups(programs: Sequence[Program], limit: int) -> list[list[list[Member]]]:
    """Members in parts that are trained at once, grouped so that a group completes its configs.

    A part holds the seeds of as many configs as fit; a config with more seeds than the limit is a
    group of several parts. Parts of a group are of nearly equal size.
    """
    if not programs:
        return []
    seeds = programs[0].config.seeds
    if limit and limit < seeds:
        count = -(-seeds // limit)
        splits = [split.tolist() for split in np.array_split(np.arange(seeds), count)]
        return [[[Member(p, i) for i in split] for split in splits] for p in programs]
    each = len(programs) if not limit else limit // seeds
    count = -(-len(programs) // each)
    chosen = np.array_split(np.arange(len(programs)), count)
    return [[[Member(programs[j], i) for j in some for i in range(seeds)]] for some in chosen]


def member_hyper(members: Sequence[Member]) -> loop.Hyper:
    """The hyperparameters of members, leaves `[M]`."""
    each = [loop.make_hyper(member.program, 1) for member in members]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *each)


def member_keys(members: Sequence[Member]) -> jax.Array:
    """The keys `[M]` that the members have in trainings of their own."""
    config = members[0].program.config
    keys = stream_keys(config.seed, config.seeds, Stream.TRAINING)
    return keys[jnp.array([member.index for member in members])]


def _train_part(
    run: Run,
    part: str,
    scratch: Path,
    members: Sequence[Member],
    context: Context,
    learner: Learner,
    made_of: Mapping[str, Any],
) -> TrainState:
    """The trained states of members, resumed from the part's last checkpoint; on the host."""
    program, count = members[0].program, len(members)
    settings = program.config.train
    identity = [
        (training_inputs(member.program, learner, made_of), member.index) for member in members
    ]
    folder = scratch / digest(identity) / CHECKPOINTS
    init, warm_up, make_chunk = compiled(
        program, context, member_hyper(members), member_keys(members)
    )
    own = functools.partial(sharding.unpad_members, members=count)
    name = policy_name(program.algorithm.name, learner.augmentation)
    run.log(f"   {name}: {count} members in one program")
    # A stage of its own, since a stage that begins removes its later metrics.
    stage = f"train/{name}" if part == "0-0" else f"train/{name}/{part}"
    state = run_fit(
        run,
        stage,
        folder,
        settings.steps,
        settings.chunk,
        make_chunk,
        lambda: own(init()),
        warm_up=lambda state: own(warm_up(state)),
        checkpoint_every=settings.checkpoint_every,
        place=functools.partial(sharding.shard_members, members=count),
        unplace=own,
    )
    return jax.tree.map(_to_host, state)


def _save(
    run: Run,
    program: Program,
    group: Sequence[Sequence[Member]],
    states: Sequence[TrainState],
    inputs: Mapping[str, Any],
) -> None:
    """Puts the policies of one config into the store, as its own training would have left them."""
    found = []
    for members, state in zip(group, states, strict=True):
        rows = np.array([i for i, member in enumerate(members) if member.program is program])
        found.append(jax.tree.map(lambda x, rows=rows: x[rows], state))
    whole = jax.tree.map(_joined, *found)

    def make(folder: Path) -> None:
        # A training of this config alone may have been killed here.
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        with Checkpoints(folder / CHECKPOINTS) as saved:
            saved.save(program.config.train.steps, whole)

    artifact(run.store, "policies", inputs, make, run.log)


def _to_host(leaf: Any) -> Any:
    """An array of NumPy; typed keys, which are small, stay as they are."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(leaf, jax.local_devices()[0])
    return np.asarray(leaf)


def _joined(*leaves: Any) -> Any:
    module = np if isinstance(leaves[0], np.ndarray) else jnp
    return module.concatenate(leaves)
