"""Settings: checked before anything starts, compared with those of a stored run."""

import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import config_flags
from small_run import SMALL

from proco_jax import command_line
from proco_jax.config.ablation_settings import ABLATIONS, ablated, needs_training
from proco_jax.config.schema import (
    ALGORITHMS,
    EVALUATION_SEED_SPACING,
    LARGEST_SEED,
    Bound,
    Config,
    differences,
    flatten,
    from_json,
    replaced,
    to_json,
)
from proco_jax.config.validation import validate
from proco_jax.data import collection
from proco_jax.envs.tasks import get_task
from proco_jax.evaluation import episodes

ROOT = Path(__file__).resolve().parent.parent
# ml_collections loads files by an interface that Python 3.12 removed; only its message is meant.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

QUICK = "--config=experiments/point_goal.py:quick"


class Field(typing.NamedTuple):
    """A setting: its type, and its bound, None where it has none."""

    kind: Any
    bound: Bound | None


def fields(section: Any, prefix: str = "") -> Iterator[tuple[str, Field]]:
    kinds = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, Field(kinds[field.name], field.metadata.get("bound"))


FIELDS = dict(fields(Config()))
LOG_SOURCES = "collect, minari:<dataset id>, dsrl:<file or task>, csv:<file> or parquet:<file>"
# Names of settings by section: a test of each alone would take longer to begin than to run.
SECTIONS = {
    section: [name for name in FIELDS if name.rpartition(".")[0] == section]
    for section in {name.rpartition(".")[0]: None for name in FIELDS}
}
# Values of other settings with which every value of a setting within its bounds is accepted.
PARTNERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "system.file": lambda file: {"data.source": "csv:logs.csv" if file else "collect"},
    "system.env": lambda _: {"system.file": "system.md", "data.source": "csv:logs.csv"},
    "data.source": lambda source: {
        "system.file": "" if source == "collect" else "system.md",
    },
    "seed": lambda _: {"seeds": 1},
    "augmentations": lambda _: {"shields": ("none",)},
    "evaluation.seed": lambda _: {"seeds": 1},
    "train.steps": lambda _: {"train.chunk": 1, "rollouts.interval": 1},
    "train.checkpoint_every": lambda _: {"train.chunk": 1, "rollouts.interval": 1},
    "evaluation.interim_every": lambda _: {"train.chunk": 1, "rollouts.interval": 1},
    "train.chunk": lambda n: {
        "train.steps": n,
        "train.checkpoint_every": n,
        "evaluation.interim_every": n,
        "rollouts.interval": 1,
    },
    "rollouts.interval": lambda n: {
        "train.steps": n,
        "train.checkpoint_every": n,
        "evaluation.interim_every": n,
        "train.chunk": n,
    },
    "dynamics.members": lambda _: {"dynamics.elites": 1},
    "dynamics.elites": lambda _: {"dynamics.members": 1000},
    "cdt.width": lambda _: {"cdt.heads": 1},
    "cdt.heads": lambda heads: {"cdt.width": max(heads, 1)},
}


def changed(**values: Any) -> Config:
    """A config with settings replaced, `__` for a dot."""
    config = Config()
    for name, value in values.items():
        *path, last = name.split("__")
        section: Any = config
        for part in path:
            section = getattr(section, part)
        setattr(section, last, value)
    return config


def refusal(config: Config) -> str:
    with pytest.raises(ValueError, match="the config cannot be run") as error:
        validate(config)
    return str(error.value)


def accept(name: str, value: Any) -> None:
    """Asserts that a value is accepted, and that JSON keeps it."""
    partners = PARTNERS[name](value) if name in PARTNERS else {}
    config = replaced(Config(), {name: value, **partners})
    validate(config)
    assert from_json(to_json(config)) == config, name


def refuse(name: str, value: Any) -> None:
    """Asserts that a value is refused in a line that names the setting and what is expected."""
    try:
        validate(replaced(Config(), {name: value}))
    except ValueError as error:
        assert f"  --config.{name}: found {value!r}, expected " in str(error)
    else:
        pytest.fail(f"--config.{name} accepts {value!r}")


def inside(field: Field) -> st.SearchStrategy[Any]:
    """Values within the bounds of a setting."""
    bound = field.bound or Bound()
    if isinstance(field.kind, types.GenericAlias):
        first, *others = typing.get_args(field.kind)
        item = inside(Field(first, bound))
        if others == [Ellipsis]:
            unique = bool(bound.choices or bound.pattern)
            least = 1 if bound.nonempty else 0
            return st.lists(item, min_size=least, max_size=4, unique=unique).map(tuple)
        items = st.tuples(*(item for _ in range(1 + len(others))))
        return items.map(sorted).map(tuple) if bound.ascending else items
    if field.kind is bool:
        return st.booleans()
    if field.kind is int:
        return st.integers(bound.low, bound.high)  # pyright: ignore
    if field.kind is float:
        return st.floats(bound.low, bound.high)
    if bound.choices:
        return st.sampled_from(bound.choices)
    if bound.pattern:
        return st.from_regex(bound.pattern, fullmatch=True)
    # JSON keeps text, but no lone surrogates.
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1 if bound.nonempty else 0)


def outside(field: Field) -> st.SearchStrategy[Any]:
    """Values of the right type that violate the bounds of a setting."""
    bound = field.bound
    assert bound is not None
    if isinstance(field.kind, types.GenericAlias):
        first, *others = typing.get_args(field.kind)
        item = Field(first, bound)
        # One item is outside, at any place among items that are not.
        before = st.lists(inside(item), max_size=2)
        after = st.lists(inside(item), max_size=2)
        if others != [Ellipsis]:
            wrong = st.tuples(outside(item), inside(item)) | st.tuples(inside(item), outside(item))
        else:
            wrong = st.builds(lambda a, x, b: (*a, x, *b), before, outside(item), after)
        if bound.nonempty:
            wrong |= st.just(())
        if bound.choices:
            wrong |= inside(item).map(lambda x: (x, x))
        if bound.ascending:
            pairs = st.tuples(inside(item), inside(item)).filter(lambda x: x[0] != x[1])
            wrong |= pairs.map(lambda x: tuple(sorted(x, reverse=True)))
        return wrong
    if field.kind is int:
        assert bound.low is not None and bound.high is not None
        return st.integers(max_value=int(bound.low) - 1) | st.integers(int(bound.high) + 1)
    if field.kind is float:
        below = st.floats(max_value=bound.low, exclude_max=True)
        above = st.floats(min_value=bound.high, exclude_min=True)
        return below | above | st.sampled_from([math.nan, math.inf, -math.inf])
    if bound.choices:
        return st.text().filter(lambda x: x not in bound.choices)
    if bound.pattern:
        return st.text().filter(lambda x: not re.fullmatch(bound.pattern, x))
    return st.just("")


def item_kind(field: Field) -> Any:
    alias = isinstance(field.kind, types.GenericAlias)
    return typing.get_args(field.kind)[0] if alias else field.kind


def test_every_number_has_a_bound_on_both_sides() -> None:
    numbers = {name: x.bound for name, x in FIELDS.items() if item_kind(x) in (int, float)}
    assert len(numbers) > 80
    for name, bound in numbers.items():
        assert bound is not None and bound.low is not None and bound.high is not None, name
        assert math.isfinite(bound.low) and math.isfinite(bound.high), name
        assert bound.low < bound.high, name


def test_only_these_texts_may_be_anything() -> None:
    free = [name for name, x in FIELDS.items() if item_kind(x) is str and x.bound is None]
    assert free == [
        "system.file",
        "system.env",
        "data.root",
        "data.cost_key",
        "data.collect.policies",
        "knowledge.file",
        "knowledge.text",
        "knowledge.api_base",
        "knowledge.cache",
    ]
    for name, field in FIELDS.items():
        if item_kind(field) is str and (bound := field.bound) is not None:
            assert bound.choices or bound.pattern or bound.nonempty, name


def test_every_setting_is_described() -> None:
    def check(section: Any) -> None:
        text = type(section).__doc__ or ""
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            if dataclasses.is_dataclass(value):
                check(value)
            else:
                assert re.search(rf"^\s+{field.name}: \S", text, re.MULTILINE), field.name

    check(Config())


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section or "config")
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_values_within_the_bounds_are_accepted(section: str, data: st.DataObject) -> None:
    for name in SECTIONS[section]:
        accept(name, data.draw(inside(FIELDS[name]), name))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section or "config")
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_values_outside_of_the_bounds_are_refused(section: str, data: st.DataObject) -> None:
    for name in SECTIONS[section]:
        if FIELDS[name].bound is not None:
            refuse(name, data.draw(outside(FIELDS[name]), name))


def test_bounds_themselves_are_accepted_and_the_next_numbers_are_not() -> None:
    numbers = {name: field for name, field in FIELDS.items() if field.kind in (int, float)}
    assert len(numbers) > 80
    for name, field in numbers.items():
        assert field.bound and field.bound.low is not None and field.bound.high is not None
        kind, low, high = field.kind, field.bound.low, field.bound.high
        for value in (low, high):
            accept(name, kind(value))
        if kind is int:
            refuse(name, int(low) - 1)
            refuse(name, int(high) + 1)
        else:
            refuse(name, math.nextafter(low, -math.inf))
            refuse(name, math.nextafter(high, math.inf))


def test_a_value_of_another_type_is_refused_for_every_setting() -> None:
    for name in FIELDS:
        refuse(name, None)
        refuse(name, ["a"])


def test_defaults_can_be_run() -> None:
    validate(Config())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("data__limited_share", 1.5, "a number from 0 to 1"),
        ("augmentation__imagined_share", -0.1, "a number from 0 to 0.99"),
        ("cost__recall", 1.0, "a number from 1e-06 to 0.999999"),
        ("proco__discount", 0.0, "a number from 1e-06 to 0.999999"),
        ("seeds", 0, "a number from 1 to 9000"),
        ("train__steps", 0, "a number from 1 to 1e+09"),
        ("proco__learning_rate", 0.0, "a number from 1e-09 to 1e+09"),
        ("cost__margin", -0.1, "a number from 0 to 1e+09"),
        ("env__workers", -1, "a number from 0 to 4096"),
        ("data__regime", "dangerous", "one of ('safe', 'limited', 'full')"),
        ("env__backend", "gpu", "one of ('batched', 'official')"),
        ("knowledge__labeler", "oracle", "one of ('rule', 'states')"),
        ("algorithms", ("ppo",), f"each item to be one of {ALGORITHMS}"),
        ("shields", ("none", "none"), "no item twice"),
        ("shields", (), "at least one item"),
        ("data__source", "minari:", LOG_SOURCES),
        ("data__source", "somewhere", LOG_SOURCES),
        ("train__steps", 4001, "a multiple of --config.train.chunk=250"),
        ("evaluation__interim_every", 300, "a multiple of --config.train.chunk=250"),
        ("rollouts__interval", 100, "a divisor of --config.train.chunk=250"),
        ("dynamics__elites", 9, "at most --config.dynamics.members=5"),
        ("shield__target_violation_rate", 1.0, "a number from 0 to 0.999999"),
        ("shield__least_margin", 1.1, "a number from 0 to 1"),
        ("shield__most_margin", 0.9, "a number from 1 to 1e+09"),
        ("shield__reward_quantile", 1.1, "a number from 0 to 1"),
        ("shield__planner_variations", 0, "a number from 1 to 100000"),
        ("shield__planner_noise", -0.1, "a number from 0 to 1e+09"),
        ("shield__forecast_starts", -1, "a number from 1 to 1000000"),
        ("cost__margin", math.inf, "a finite number"),
        ("cost__ucb_coefficient", math.nan, "a finite number"),
        ("cost__margin", 10**400, "a number from 0 to 1e+09"),
        ("seeds", -(10**400), "a number from 1 to 9000"),
        ("proco__hidden", (64, 0), "each item to be a number from 1 to 65536"),
        ("proco__hidden", (), "at least one item"),
        ("data__collect__gains", (), "at least one item"),
        ("data__collect__gains", (1.0, math.nan), "each item to be a finite number"),
        ("data__collect__speed", (0.7, 0.3), "a range (low, high) whose low is at most its high"),
        ("data__collect__noise", (0.1, math.inf), "each item to be a finite number"),
        ("data__seed", 2**31, "a number from 0 to 21373"),
        ("data__holdout_share", 1.0, "a number from 0 to 0.999999"),
        ("knowledge__temperature", -1.0, "a number from 0 to 2"),
        ("knowledge__timeout_s", 0.0, "a number from 0.1 to 86400"),
        ("knowledge__budget_usd", -1.0, "a number from 0 to 1e+09"),
        ("knowledge__max_tokens", -1, "a number from 0 to 1000000"),
        ("feasibility__safe", 30.0, "a number from -1e+09 to -1e-09"),
        ("evaluation__episodes", 1001, "a number from 1 to 1000"),
        ("experiment", "a/b", "at most 100 of letters, digits, "),
        ("experiment", "..", "at most 100 of letters, digits, "),
        ("variant", "", "at most 100 of letters, digits, "),
    ],
)
def test_a_value_outside_of_its_bounds_is_refused(name: str, value: Any, expected: str) -> None:
    text = refusal(changed(**{name: value}))
    assert f"--config.{name.replace('__', '.')}: found {value!r}, expected {expected}" in text


def test_an_imagined_update_needs_a_step_for_each_minibatch() -> None:
    sizes = {"proco__imagination__worlds": 1, "proco__imagination__horizon": 3}
    text = refusal(changed(**sizes))
    assert "--config.proco.imagination.minibatches: found 16, expected at most the 3 steps" in text
    validate(changed(**sizes, proco__imagination__minibatches=3))


def test_a_shield_needs_feasibility_critics() -> None:
    text = refusal(changed(augmentations=("none",)))
    assert "--config.shields: found ('none', 'filter', 'planner'), expected ('none',), or" in text
    validate(changed(augmentations=("none",), shields=("none",)))


@pytest.mark.parametrize(
    ("seed", "seeds", "largest"),
    [
        (0, 1, 9_999_000),
        (0, 5, 9_995_000),
        (8995, 5, 1_000_000),
        # Policies 8998 and 8999 have the last slots, policies 9000 and 9001 the first.
        (8998, 4, 1_000_000),
        (9000, 5, 9_995_000),
        (0, 9000, 1_000_000),
    ],
)
def test_evaluation_stays_below_the_seeds_of_collections(
    seed: int, seeds: int, largest: int
) -> None:
    def config(first: int) -> Config:
        return changed(seed=seed, seeds=seeds, evaluation__seed=first)

    validate(config(largest))
    assert max(x[-1] for x in episodes.episode_seeds(config(largest), seeds, 1000)) == 9_999_999
    if largest < 9_999_000:
        text = refusal(config(largest + 1))
        assert f"--config.evaluation.seed: found {largest + 1}, expected at most {largest}" in text


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 20_000) | st.integers(LARGEST_SEED - 100, LARGEST_SEED),
    seeds=st.integers(1, 100) | st.integers(8900, 9000),
    first=st.integers(0, 11_000_000),
    collected=st.integers(0, 3) | st.integers(21_300, 21_400),
)
def test_accepted_seeds_never_overlap(seed: int, seeds: int, first: int, collected: int) -> None:
    config = changed(seed=seed, seeds=seeds, evaluation__seed=first, data__seed=collected)
    config.data.episodes = 100_000
    try:
        validate(config)
    except ValueError:
        return
    assert seed + seeds <= LARGEST_SEED
    own = sorted(
        episodes.episode_seeds(config, seeds, EVALUATION_SEED_SPACING), key=lambda x: x.start
    )
    assert all(x.stop <= y.start for x, y in itertools.pairwise(own))
    recorded = collection.episode_seeds(
        collection.make_recipe(get_task("SafetyPointGoal1"), config.data)
    )
    assert own[0].start >= 0 and own[-1].stop <= recorded[0]
    assert recorded[-1] <= LARGEST_SEED


def test_seeds_of_all_policies_have_32_bits() -> None:
    validate(changed(seed=LARGEST_SEED - 5, seeds=5))
    text = refusal(changed(seed=LARGEST_SEED - 4, seeds=5))
    assert f"--config.seed: found {LARGEST_SEED - 4}, expected at most {LARGEST_SEED - 5}" in text


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("train__steps", 1e3, "a value of type int"),
        ("train__steps", True, "a value of type int"),
        ("bc__safe_only", 1, "a value of type bool"),
        ("task", None, "a value of type str"),
        ("cost__margin", "wide", "a value of type float"),
        ("proco__hidden", 128, "a tuple of values of type int"),
        ("proco__hidden", (128, 0.5), "a tuple of values of type int"),
        ("data__collect__speed", (0.3,), "a tuple of 2 values of type float"),
        ("data__collect__gains", (0.0, "a"), "a tuple of values of type float"),
        ("train", None, "a value of type TrainConfig"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name: str, value: Any, expected: str) -> None:
    text = refusal(changed(**{name: value}))
    assert f"--config.{name.replace('__', '.')}: found {value!r}, expected {expected}" in text


def test_whole_numbers_are_numbers() -> None:
    validate(changed(cost__margin=0, data__collect__gains=(0, 1.5)))


def test_a_setting_that_no_class_declares_is_refused() -> None:
    text = refusal(changed(train__stepz=5))
    assert "--config.train.stepz: found 5, but no setting has this name" in text


def test_all_problems_are_reported_at_once() -> None:
    text = refusal(changed(seeds=0, data__regime="x", train__steps=0))
    assert len(text.splitlines()) == 4
    text = refusal(changed(train__steps=1, rollouts__interval=3, dynamics__elites=9))
    assert len(text.splitlines()) == 4


def test_a_replaced_setting_leaves_the_original_and_shares_nothing_with_it() -> None:
    config = Config()
    found = replaced(config, {"seeds": 2, "train.steps": 500, "data.collect.gains": (1.0,)})
    assert config == Config()
    assert (found.seeds, found.train.steps, found.data.collect.gains) == (2, 500, (1.0,))
    found.cost.margin = 9.0
    assert config == Config()
    for name in ("stepz", "train.stepz", "train", "seeds.x"):
        with pytest.raises(ValueError, match=f"found '{name}', expected the dotted name"):
            replaced(config, {name: 1})


@pytest.mark.parametrize("name", list(ABLATIONS))
def test_every_ablation_can_be_run_and_changes_what_it_names(name: str) -> None:
    config = Config()
    found = ablated(config, ABLATIONS[name], 3)
    validate(found)
    assert config == Config()
    before, after = flatten(config), flatten(found)
    assert (found.seeds, found.algorithms, found.augmentations) == (3, ("proco",), ("proco",))
    common = {"seeds", "augmentations", "evaluation.interim_episodes"}
    assert {x for x in before if before[x] != after[x]} == {*ABLATIONS[name], *common}
    assert all(after[x] == value for x, value in ABLATIONS[name].items())


def test_only_changes_of_deployment_and_evaluation_need_no_training() -> None:
    assert [name for name, x in ABLATIONS.items() if not needs_training(x)] == [
        "as it is",
        "target violation rate 0",
        "target violation rate 0.2",
        "larger thresholds",
    ]
    assert not needs_training({"shields": ("none",), "evaluation.episodes": 3, "shield.samples": 1})
    assert needs_training({"shield.samples": 1, "train.n_step": 5})
    assert needs_training({"seeds": 7})


def test_json_of_another_version_is_refused() -> None:
    for text in ("", "[]", "3", '{"stepz": 1}', '{"train": 3}', '{"seeds": 2', "[" * 100_000):
        with pytest.raises(ValueError, match="not a config of this version"):
            from_json(text)


def test_flatten_names_every_setting_once() -> None:
    flat = flatten(Config())
    assert flat["data.collect.speed"] == list(Config().data.collect.speed)
    assert flat["seeds"] == Config().seeds

    def leaves(section: Any) -> int:
        values = [getattr(section, f.name) for f in dataclasses.fields(section)]
        return sum(leaves(v) if dataclasses.is_dataclass(v) else 1 for v in values)

    assert len(flat) == leaves(Config())
    assert not any(isinstance(value, tuple | dict) for value in flat.values())


def test_a_config_does_not_differ_from_itself_in_json() -> None:
    assert differences(Config(), to_json(Config())) == []


def test_differences_name_each_setting_with_both_values() -> None:
    stored = to_json(changed(train__steps=500, data__collect__gains=(1.0,)))
    now = list(Config().data.collect.gains)
    assert differences(Config(), stored) == [
        f"data.collect.gains: [1.0] -> {now}",
        f"train.steps: 500 -> {Config().train.steps}",
    ]


def test_settings_of_an_older_or_newer_version_differ() -> None:
    stored = json.loads(to_json(Config()))
    stored["train"]["momentum"] = 0.9
    del stored["seeds"]
    lines = differences(Config(), json.dumps(stored))
    assert "train.momentum: 0.9 -> '(absent)'" in lines
    assert f"seeds: '(absent)' -> {Config().seeds}" in lines


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Parses arguments as the command does, and gives the config."""

    def parse(*arguments: str) -> Config:
        argv = ["main", *arguments]
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file(
            "config", None, "", flag_values=values, sys_argv=argv
        )
        monkeypatch.setattr(flags, "FLAGS", values)
        command_line.parse(argv)
        return holder.value

    monkeypatch.chdir(ROOT)
    yield parse


def test_every_number_can_be_overridden_by_its_name(parse: Any) -> None:
    overrides = {
        "train.steps": ("500", 500),
        "cost.margin": ("0.25", 0.25),
        "proco.hidden": ("(64, 32)", (64, 32)),
        "bc.safe_only": ("false", False),
        "algorithms": ("('proco', 'bc')", ("proco", "bc")),
        "knowledge.text": ("slow down, always", "slow down, always"),
    }
    config = parse(QUICK, *(f"--config.{k}={text}" for k, (text, _) in overrides.items()))
    for name, (_, value) in overrides.items():
        *path, last = name.split(".")
        section = getattr(config, path[0]) if path else config
        assert getattr(section, last) == value
    validate(config)


def test_the_settings_of_small_runs_exist_and_can_be_run(parse: Any) -> None:
    config = parse(QUICK, *(f"--config.{name}={value}" for name, value in SMALL.items()))
    validate(config)
    assert config.shield.planner_candidates == int(SMALL["shield.planner_candidates"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([QUICK, "--config.train.stepz=5"], "no such setting; did you mean train.steps?"),
        ([QUICK, "--config.train=5"], "no such setting; its settings: train.steps, "),
        ([QUICK, "--noconfig.bc.safe_onli"], "no such setting; did you mean bc.safe_only?"),
        ([QUICK, "--config.train.steps=many"], "config.train.steps=many"),
        ([QUICK, "--config.train.steps=1.5"], "config.train.steps=1.5"),
        ([QUICK, "--config.bc.safe_only=perhaps"], "config.bc.safe_only=perhaps"),
        ([QUICK, "--steps=5"], "steps"),
        (["--config=experiments/nope.py"], "no file 'experiments/nope.py'; experiments there: "),
        (["--config=experiments/nope.py:quick"], "no file 'experiments/nope.py'"),
        (["--config", "experiments/nope.py"], "no file 'experiments/nope.py'"),
        (["--config=experiments/point_goal.py:nope"], "no variant 'nope'"),
    ],
)
def test_mistakes_on_the_command_line_are_reported_in_one_line(
    parse: Any, arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(*arguments)
    text = str(exit.value)
    assert text.startswith("error: ") and words in text
    assert len(text.splitlines()) == 1


@pytest.mark.slow
def test_the_command_reports_mistakes_and_makes_no_folder(tmp_path: Path) -> None:
    def answer(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "proco_jax.main", f"--workdir={tmp_path / 'run'}", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=300,
            check=False,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "no variant 'nope'" in answer("--config=experiments/point_goal.py:nope")
    assert "did you mean 'SafetyPointGoal1'" in answer(QUICK, "--config.task=PointGool1")
    assert "a multiple of" in answer(QUICK, "--config.train.steps=7")
    assert not (tmp_path / "run").exists()
