"""The work on one unit: training, then the results of each of its runs."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proco_jax.augmentation.base import Context
from proco_jax.common.checksums import read_recorded
from proco_jax.common.compilation_cache import use_compilation_cache
from proco_jax.common.files import write_text
from proco_jax.common.sharding import use_cores_as_devices
from proco_jax.config.schema import Config, replaced
from proco_jax.pipeline import stages
from proco_jax.pipeline.imagined_episodes import learns_from_episodes
from proco_jax.pipeline.members import train_configs
from proco_jax.pipeline.policies import Learner, train_policies
from proco_jax.pipeline.workdir import Run, open_run
from proco_jax.pipeline.world_model import make_nets
from proco_jax.sweeps.description import Unit
from proco_jax.sweeps.estimate import fitting_members
from proco_jax.sweeps.folder import TRAINED, Root, add_seconds
from proco_jax.system.description import task_of
from proco_jax.training.improvement import improves
from proco_jax.training.loop import Program, make_program

NOW, LATER, ONLY = "now", "later", "only"
_REPLIES = "replies.jsonl"
# Reports of the world model, which all runs of a unit share.
_WORLD_REPORTS = ("dynamics.json", "cost.json")
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


@dataclasses.dataclass(frozen=True)
class UnitWork:
    """What is done with each unit of a sweep; called with one, and can be sent to other processes.

    Attributes:
      root: of the sweep.
      evaluate: `now`, `later` (train and save the policies) or `only` (of trained policies).
      members: members trained at once; 0 for as many as fit into memory.
      devices: members that CPU cores are made devices for, see `use_cores_as_devices`.
      probe: whether that many are found by compiling a step; else by calculation.
    """

    root: Root
    evaluate: str
    members: int
    devices: int
    probe: bool = False

    def is_done(self, unit: Unit) -> bool:
        """Whether nothing is left to do for a unit."""
        if self.root.unit_finished(unit):
            return True
        return self.evaluate == LATER and self.root.unit_trained(unit)

    def is_trained(self, unit: Unit) -> bool:
        """Whether the policies of a unit are saved."""
        return self.root.unit_trained(unit) or self.root.unit_finished(unit)

    def prepare(self) -> None:
        """Sets JAX up, before its first use in this process."""
        use_compilation_cache()
        use_cores_as_devices(self.devices)

    def __call__(self, unit: Unit, log: Callable[[str], None]) -> None:
        """Trains a unit's policies, saves them, and evaluates them unless that is for later.

        Raises:
          ValueError: if only evaluation is asked for and the unit is not trained.
        """
        root, trained = self.root, self.root.unit_trained(unit)
        if self.evaluate == ONLY and not trained:
            raise ValueError("not trained yet; first run the same command with --evaluate=later")
        begun = time.monotonic()
        if not trained:
            _train(root, unit, self, log)
        for own in unit.runs:
            if root.run_finished(own.name):
                continue
            log(f"\n## {own.name}")
            config = _with_shared_replies(root, own.config)
            with open_run(config, root.run(own.name), root.store, log=log) as run:
                _share_reports(root, unit, run)
                stages.make_results(run, evaluate=self.evaluate != LATER)
        if not trained:
            # Only now can every policy be loaded.
            write_text(root.unit(unit.name) / TRAINED, "{}\n")
        add_seconds(root, unit, time.monotonic() - begun)


def device_members(units: Sequence[Unit]) -> int:
    """The most members of a program of any unit."""
    return max(max(u.members, u.runs[0].config.dynamics.members) for u in units)


def _share_reports(root: Root, unit: Unit, run: Run) -> None:
    """Copies the reports of the world model from the unit, so that they are not made again."""
    for name in _WORLD_REPORTS:
        path = root.unit(unit.name) / name
        if path.exists() and run.read_json(name) is None:
            remedy = "remove it, then it is made anew"
            run.write_json(name, json.loads(read_recorded(path, remedy)))


def _train(root: Root, unit: Unit, work: UnitWork, log: Callable[[str], None]) -> None:
    """Trains all policies of a unit into the store."""
    first = unit.runs[0].config
    config = _with_shared_replies(root, first)
    with open_run(config, root.unit(unit.name), root.store, log=log) as run:
        logs, grounding = stages.load_inputs(run)
        nets, data = make_nets(config, logs.spec), stages.device_data(logs)
        fitted = None
        if grounding is not None:
            fitted = stages.fit_world_model(run, nets, data, logs, grounding)
        contexts = stages.make_contexts(run, nets, data, fitted, config.augmentations)
        # Each config has its own imagined episodes.
        own_contexts = [dict(contexts) for _ in unit.runs]
        task = task_of(config)
        spec = stages.task_spec(task, config, logs)
        for learner in stages.learners_of(config):
            programs = [
                make_program(_with_shared_replies(root, own.config), spec, *learner)
                for own in unit.runs
            ]
            title = f"Training: {learner.algorithm}, augmentation {learner.augmentation}"
            name = f"train/{learner.algorithm}-{learner.augmentation}"
            if not improves(programs[0]) and not learns_from_episodes(config, learner):
                with run.stage(name, title):
                    context, made_of = contexts[learner.augmentation]
                    _train_within_memory(run, programs, context, learner, made_of, work)
                continue
            # The improvement in imagination has the seeds of one config as members.
            for program, known in zip(programs, own_contexts, strict=True):
                own = dataclasses.replace(run, config=program.config)
                context, made_of = stages.learner_context(own, task, spec, known, learner)
                with run.stage(name, title):
                    train_policies(own, program, task, context, learner, made_of)


def _train_within_memory(
    run: Run,
    programs: Sequence[Program],
    context: Context,
    learner: Learner,
    made_of: Mapping[str, Any],
    work: UnitWork,
) -> None:
    """Trains as many members at once as memory holds: half as many where it does not suffice."""
    count = sum(program.config.seeds for program in programs)
    limit = work.members or fitting_members(programs[0], context, count, work.probe)
    while True:
        try:
            train_configs(run, programs, context, learner, made_of, limit)
            return
        except RuntimeError as error:
            if _OUT_OF_MEMORY not in str(error) or limit <= 1:
                raise
        limit = max(1, min(limit, count) // 2)
        run.log(f"   not enough memory; {limit} members at once from here on")


def _with_shared_replies(root: Root, config: Config) -> Config:
    """The config, with one cache of a language model's replies for all runs of the sweep."""
    if config.knowledge.cache or config.knowledge.model in ("offline", "recorded", "shipped"):
        return config
    return replaced(config, {"knowledge.cache": str(root.path / _REPLIES)})
