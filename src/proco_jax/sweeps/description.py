"""The description of a sweep, and the units of work that it expands to.

A *run* is one config: a task, a regime of its logs, an algorithm with all augmentations and
shields, and one value of each hyperparameter, with all seeds. A *unit* is what one process works on
at a time: all runs whose policies can be members of one compiled program for each augmentation.
Seeds are members, and so are the values of hyperparameters that a program takes as arguments
(`is_member_setting`). Whatever changes shapes, data or task makes another unit. Augmentations and
shields stay together, because policies without augmentation are evaluated under the shield of their
counterparts with one.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proco_jax.common.shipped import shipped_experiments
from proco_jax.config.schema import ALGORITHMS, Config, flatten, replaced
from proco_jax.config.validation import validate

# Floats of these sections are arguments of the training program; the exceptions set shapes, the
# initial values of networks, or the world model.
_SHARED_MEMBER_SETTINGS = (
    "feasibility.learning_rate",
    "feasibility.unsafe",
    "feasibility.discount",
    "feasibility.violation_discount",
    "feasibility.expectile",
    "feasibility.tau",
    "augmentation.violating_share",
    "rollouts.risk_share",
    "rollouts.risky_start_share",
    "rollouts.noise",
    "rollouts.persistence",
)
# Axes of their own, or settings that a sweep decides.
_NOT_SETTINGS = (
    "experiment",
    "variant",
    "task",
    "seeds",
    "seed",
    "algorithms",
    "augmentations",
    "shields",
    "data.regime",
    "evaluation.interim_episodes",
)
_LONGEST_NAME = 100
_IMAGINATION = "proco.imagination."
_UPDATES = f"{_IMAGINATION}updates"
_EPISODE_SHARE = "augmentation.episode_share"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What varies, and what is set for all runs.

    Attributes:
      experiments: the tasks: names of shipped experiments, or paths of experiment files.
      variant: of all experiments.
      regimes: of the logs, as `data.regime`; empty for those of the experiments.
      algorithms: as `--config.algorithms`; empty for those of the experiments.
      augmentations: as `--config.augmentations`; empty for those of the experiments.
      shields: as `--config.shields`; empty for those of the experiments.
      hyperparameters: dotted names of settings and the values that they take; all combinations are
        run. Settings of an algorithm (`bc.learning_rate`) vary in its own runs alone, those of the
        improvement (`proco.imagination`) also where another algorithm learns from its episodes.
      settings: values by dotted names, the same in all runs.
      seeds: policies of each run; 0 for as many as the experiments have.
      seed: the first of them.
      unit_members: most members of a unit, so that large groups are spread over several processes;
        0 for no limit. A run is never split.
    """

    experiments: tuple[str, ...]
    variant: str = "default"
    regimes: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    augmentations: tuple[str, ...] = ()
    shields: tuple[str, ...] = ()
    hyperparameters: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: int = 0
    seed: int = 0
    unit_members: int = 0


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One config of a sweep.

    Attributes:
      name: of its folder; ends with a hash of the config.
      config: validated.
      settings: the values of the sweep's hyperparameters that concern it.
    """

    name: str
    config: Config
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Unit:
    """Runs that are trained together.

    Attributes:
      name: of its folder; ends with a hash of its runs.
      runs: they differ in member settings alone.
    """

    name: str
    runs: tuple[SweepRun, ...]

    @property
    def members(self) -> int:
        """Policies of each augmentation."""
        return sum(run.config.seeds for run in self.runs)


def load_sweep(path: str) -> Sweep:
    """The sweep of a file with a function `get_sweep`.

    Args:
      path: of the file, or the name of a shipped one, with an optional variant behind a colon,
        which is given to `get_sweep`.

    Raises:
      ValueError: if there is no such file, or it does not return a `Sweep`.
    """
    name, _, variant = path.partition(":")
    shipped = shipped_experiments() / "sweeps"
    file = _find(name, shipped)
    if file is None:
        there = ", ".join(sorted(p.stem for p in shipped.glob("*.py"))) or "none"
        raise ValueError(f"--sweep: no file {name!r}; sweeps of the package: {there}")
    get_sweep = getattr(_load_module(file), "get_sweep", None)
    if not callable(get_sweep):
        raise ValueError(f"--sweep: {file} has no function get_sweep")
    if variant and not inspect.signature(get_sweep).parameters:
        raise ValueError(f"--sweep: found variant {variant!r}, but get_sweep of {file} takes none")
    sweep = get_sweep(variant) if variant else get_sweep()
    if not isinstance(sweep, Sweep):
        raise ValueError(f"--sweep: get_sweep of {file} returned {sweep!r}, expected a Sweep")
    return sweep


def expand(sweep: Sweep) -> list[Unit]:
    """The units of a sweep, in the order of its axes.

    Raises:
      ValueError: on an unknown experiment or setting, an axis without values, with one twice, or
        that varies in no run, or a run whose config is invalid.
    """
    _check_axes(sweep)
    groups: dict[str, list[SweepRun]] = {}
    labels: dict[str, str] = {}
    names: set[str] = set()
    for label, run, shape in _runs(sweep):
        if run.name in names:
            raise ValueError(f"the run {run.name} occurs twice; name each value of an axis once")
        names.add(run.name)
        groups.setdefault(shape, []).append(run)
        labels[shape] = label
    units = []
    for shape, runs in groups.items():
        each = len(runs)
        if sweep.unit_members:
            each = max(1, sweep.unit_members // runs[0].config.seeds)
        for first in range(0, len(runs), each):
            own = tuple(runs[first : first + each])
            units.append(Unit(f"{labels[shape]}-{_hash(*(run.name for run in own))}", own))
    return units


@functools.cache
def is_member_setting(name: str, algorithm: str) -> bool:
    """Whether members of one training program may differ in a setting.

    Args:
      name: dotted.
      algorithm: one of `ALGORITHMS`; an algorithm of the user's own may read any setting when it is
        made, so none of its settings is known to be an argument.
    """
    if algorithm not in ALGORITHMS:
        return False
    if name in _SHARED_MEMBER_SETTINGS:
        return True
    section, _, field = name.partition(".")
    if section != algorithm:
        return False
    return isinstance(getattr(getattr(Config(), section), field, None), float)


def _concerns(sweep: Sweep, base: Config, name: str, algorithm: str) -> bool:
    """Whether a setting varies in the runs of an algorithm: one of another algorithm does not.

    Those of the improvement in imagination concern all algorithms that learn from the episodes of
    the improved policy (`pipeline/imagined_episodes.py`).
    """
    section = name.partition(".")[0]
    if section not in ALGORITHMS or section == algorithm:
        return True
    updates = sweep.hyperparameters.get(_UPDATES, (base.proco.imagination.updates,))
    shares = sweep.hyperparameters.get(_EPISODE_SHARE, (base.augmentation.episode_share,))
    learns = set(base.augmentations) != {"none"} and max(updates) > 0 and max(shares) > 0
    return name.startswith(_IMAGINATION) and learns


def _runs(sweep: Sweep) -> Iterator[tuple[str, SweepRun, str]]:
    """Label of the unit, run, and a hash of what the runs of a unit share."""
    for experiment in sweep.experiments:
        base = _base(sweep, experiment)
        regimes = sweep.regimes or (base.data.regime,)
        algorithms = sweep.algorithms or base.algorithms
        for name in sweep.hyperparameters:
            if not any(_concerns(sweep, base, name, algorithm) for algorithm in algorithms):
                raise ValueError(
                    f"{name}: found among the hyperparameters, but no run of the algorithms "
                    f"{', '.join(algorithms)} depends on it; leave it out, set it under settings, "
                    "or add the algorithm it belongs to"
                )
        for regime, algorithm in itertools.product(regimes, algorithms):
            own = {
                name: values
                for name, values in sweep.hyperparameters.items()
                if _concerns(sweep, base, name, algorithm)
            }
            base_name = f"{base.experiment}-{regime}-{algorithm.replace(':', '.')}"
            for values in itertools.product(*own.values()):
                found = dict(zip(own, values, strict=True))
                fixed = {k: v for k, v in found.items() if not is_member_setting(k, algorithm)}
                member = {k: v for k, v in found.items() if k not in fixed}
                chosen = {"data.regime": regime, "algorithms": (algorithm,)}
                config = replaced(base, chosen | found)
                try:
                    validate(config)
                except ValueError as error:
                    raise ValueError(f"{_named(base_name, found)}: {error}") from None
                flat = flatten(config)
                name = f"{_named(base_name, found)}-{_hash(json.dumps(flat))}"
                # Where values are members, one stands for all of them.
                shape = _hash(json.dumps(flat | dict.fromkeys(member)))
                yield _named(base_name, fixed), SweepRun(name, config, found), shape


def _base(sweep: Sweep, experiment: str) -> Config:
    """The config that all runs of an experiment begin from."""
    file = _find(experiment, shipped_experiments())
    if file is None:
        there = ", ".join(sorted(path.stem for path in shipped_experiments().glob("*.py")))
        raise ValueError(
            f"experiments: no file {experiment!r}; experiments of the package: {there}"
        )
    config = _load_module(file).get_config(sweep.variant)
    # Programs of several runs have no evaluation of one run between their chunks.
    chosen: dict[str, Any] = {"seed": sweep.seed, "evaluation.interim_episodes": 0}
    if sweep.seeds:
        chosen["seeds"] = sweep.seeds
    if sweep.augmentations:
        chosen["augmentations"] = tuple(sweep.augmentations)
    if sweep.shields:
        chosen["shields"] = tuple(sweep.shields)
    return replaced(config, chosen | dict(sweep.settings))


def _check_axes(sweep: Sweep) -> None:
    if not sweep.experiments:
        raise ValueError("experiments: found none, expected at least one")
    known = flatten(Config())
    for name in (*sweep.settings, *sweep.hyperparameters):
        if name not in known:
            raise ValueError(f"{name}: found in the sweep, expected the dotted name of a setting")
        if name in _NOT_SETTINGS:
            raise ValueError(
                f"{name}: found among the settings or hyperparameters of the sweep; it is an axis "
                "of its own, or chosen by the sweep"
            )
    if both := sorted(set(sweep.settings) & set(sweep.hyperparameters)):
        raise ValueError(f"{', '.join(both)}: found both as a setting and as a hyperparameter")
    axes: dict[str, Any] = {"experiments": sweep.experiments, "regimes": sweep.regimes}
    axes |= {"algorithms": sweep.algorithms} | dict(sweep.hyperparameters)
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, tuple | list):
            raise ValueError(f"{name}: found {values!r}, expected a tuple of values")
        if name in sweep.hyperparameters and not values:
            raise ValueError(f"{name}: found no value, expected at least one")
        if len({repr(value) for value in values}) < len(values):
            raise ValueError(f"{name}: found {values!r}, expected no value twice")
    counts = {"seeds": sweep.seeds, "seed": sweep.seed, "unit_members": sweep.unit_members}
    for name, count in counts.items():
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"{name}: found {count!r}, expected a whole number of 0 or more")


def _find(name: str, folder: Path) -> Path | None:
    """The file of that path, or the shipped one of that name."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = folder / f"{path.stem}.py"
    return shipped if shipped.is_file() else None


def _load_module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"proco_jax_file_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _named(base: str, values: Mapping[str, Any]) -> str:
    """A name for folders: the base, and the values where they are not too long."""
    text = "-".join([base, *(f"{name}={value}" for name, value in values.items())])
    text = re.sub(r"[^A-Za-z0-9_.=+-]", "_", text)
    return text if len(text) <= _LONGEST_NAME else re.sub(r"[^A-Za-z0-9_.-]", "_", base)


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
