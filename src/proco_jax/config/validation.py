"""Checks of a config before any work starts."""

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from proco_jax.config.schema import (
    EVALUATION_SEED_SLOTS,
    EVALUATION_SEED_SPACING,
    FIRST_COLLECTION_SEED,
    LARGEST_SEED,
    TABLE_SOURCES,
    Bound,
    Config,
)


def validate(config: Config) -> None:
    """Checks types and bounds of every setting, and the conditions that involve several of them.

    Raises:
      ValueError: with one line per problem: the setting, what was found, what is expected.
    """
    problems = list(_section_problems(config)) or list(_cross_problems(config))
    if problems:
        raise ValueError("the config cannot be run:\n  " + "\n  ".join(problems))


def _section_problems(section: Any, prefix: str = "") -> Iterator[str]:
    """Undeclared settings, values of the wrong type, and values outside of their bounds."""
    declared = _type_hints(type(section))
    bounds = {f.name: f.metadata.get("bound", Bound()) for f in dataclasses.fields(section)}
    for name, value in vars(section).items():
        if name not in declared:
            yield f"--config.{prefix}{name}: found {value!r}, but no setting has this name"
    for name, kind in declared.items():
        value = getattr(section, name)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            if isinstance(value, kind):
                yield from _section_problems(value, f"{prefix}{name}.")
            else:
                yield _problem(prefix + name, value, f"a value of type {kind.__name__}")
        elif not _has_type(value, kind):
            yield _problem(prefix + name, value, _type_words(kind))
        elif expected := _expected(value, bounds[name]):
            yield _problem(prefix + name, value, expected)


@functools.cache
def _type_hints(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _expected(value: Any, bound: Bound) -> str | None:
    """What is expected in place of a value outside of its bound; None if it is inside."""
    if isinstance(value, bool):
        return None
    if isinstance(value, tuple):
        return _expected_tuple(value, bound)
    if isinstance(value, str):
        if bound.choices and value not in bound.choices:
            return f"one of {bound.choices}"
        if bound.pattern and not re.fullmatch(bound.pattern, value):
            return bound.pattern_words
        return "a text that is not empty" if bound.nonempty and not value else None
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    low = -math.inf if bound.low is None else bound.low
    high = math.inf if bound.high is None else bound.high
    return None if low <= value <= high else f"a number from {low:.9g} to {high:.9g}"


def _expected_tuple(values: tuple[Any, ...], bound: Bound) -> str | None:
    if bound.nonempty and not values:
        return "at least one item"
    for value in values:
        if expected := _expected(value, bound):
            return f"each item to be {expected}"
    if (bound.choices or bound.pattern) and len(set(values)) < len(values):
        return "no item twice"
    if bound.ascending and list(values) != sorted(values):
        return "a range (low, high) whose low is at most its high"
    return None


def _cross_problems(config: Config) -> Iterator[str]:
    """Conditions that involve several settings, each of which is within its own bounds."""
    yield from _seed_problems(config)
    yield from _system_problems(config)
    chunk = config.train.chunk
    spans = {
        "train.steps": config.train.steps,
        "train.checkpoint_every": config.train.checkpoint_every,
        "evaluation.interim_every": config.evaluation.interim_every,
    }
    for name, value in spans.items():
        if value % chunk:
            yield _problem(name, value, f"a multiple of --config.train.chunk={chunk}")
    if chunk % config.rollouts.interval:
        expected = f"a divisor of --config.train.chunk={chunk}"
        yield _problem("rollouts.interval", config.rollouts.interval, expected)
    members = config.dynamics.members
    if config.dynamics.elites > members:
        expected = f"at most --config.dynamics.members={members}"
        yield _problem("dynamics.elites", config.dynamics.elites, expected)
    if config.cdt.width % config.cdt.heads:
        expected = f"a multiple of --config.cdt.heads={config.cdt.heads}"
        yield _problem("cdt.width", config.cdt.width, expected)
    imagined = config.proco.imagination
    if imagined.minibatches > imagined.worlds * imagined.horizon:
        expected = (
            f"at most the {imagined.worlds * imagined.horizon} steps of an update: "
            "--config.proco.imagination.worlds times horizon"
        )
        yield _problem("proco.imagination.minibatches", imagined.minibatches, expected)
    if set(config.shields) != {"none"} and set(config.augmentations) == {"none"}:
        expected = (
            "('none',), or 'proco' or 'control' among --config.augmentations: a shield's "
            "feasibility critics are trained with an augmentation"
        )
        yield _problem("shields", config.shields, expected)


def _system_problems(config: Config) -> Iterator[str]:
    """Sources of logs and environments that do not go with the kind of system."""
    source, own = config.data.source, bool(config.system.file)
    if own and source == "collect":
        expected = "csv:, parquet:, minari: or dsrl: logs of the system in --config.system.file"
        yield _problem("data.source", source, expected)
    if not own and source.startswith(TABLE_SOURCES):
        expected = (
            "collect, minari: or dsrl:, or a description of your own system in "
            "--config.system.file (python -m proco_jax.describe drafts one)"
        )
        yield _problem("data.source", source, expected)
    if config.system.env and not own:
        expected = "a description of the environment's system in --config.system.file"
        yield _problem("system.env", config.system.env, expected)


def _seed_problems(config: Config) -> Iterator[str]:
    """Seeds that do not fit 32 bits, and evaluation episodes with a collection's seeds."""
    largest = LARGEST_SEED - config.seeds
    if config.seed > largest:
        expected = f"at most {largest}: seeds of 32 bits for --config.seeds={config.seeds} policies"
        yield _problem("seed", config.seed, expected)
    last_policy = config.seed + config.seeds - 1
    slot = last_policy % EVALUATION_SEED_SLOTS
    if slot < config.seeds - 1:
        # The slots of these policies wrap around: some policy has the last one.
        slot = EVALUATION_SEED_SLOTS - 1
    largest = FIRST_COLLECTION_SEED - (slot + 1) * EVALUATION_SEED_SPACING
    if config.evaluation.seed > largest:
        expected = (
            f"at most {largest}, so that with --config.seed={config.seed} and "
            f"--config.seeds={config.seeds} all episode seeds are below {FIRST_COLLECTION_SEED}, "
            "where those of collections begin"
        )
        yield _problem("evaluation.seed", config.evaluation.seed, expected)


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.GenericAlias):
        if not isinstance(value, tuple):
            return False
        kinds = typing.get_args(kind)
        inner = (kinds[0],) * len(value) if kinds[-1] is Ellipsis else kinds
        return len(value) == len(inner) and all(map(_has_type, value, inner))
    if kind in (int, float):
        accepted = int if kind is int else (int, float)
        return isinstance(value, accepted) and not isinstance(value, bool)
    return isinstance(value, kind)


def _type_words(kind: Any) -> str:
    if not isinstance(kind, types.GenericAlias):
        return f"a value of type {kind.__name__}"
    first, *others = typing.get_args(kind)
    number = "" if Ellipsis in others else f"{len(others) + 1} "
    return f"a tuple of {number}values of type {first.__name__}"


def _problem(name: str, value: Any, expected: str) -> str:
    return f"--config.{name}: found {value!r}, expected {expected}"
