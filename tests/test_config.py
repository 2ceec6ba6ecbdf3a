"""Settings: checked before anything starts, compared with those of a stored run."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags

from proco_jax import command_line
from proco_jax.config.schema import Config, differences, flatten, to_json, validate

ROOT = Path(__file__).resolve().parent.parent
# ml_collections loads files in a way that Python 3.12 gave up; only its own message is meant.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

QUICK = "--config=experiments/point_goal.py:quick"


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


def test_defaults_can_be_run() -> None:
    validate(Config())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("data__limited_share", 1.5, "a share between 0 and 1"),
        ("proco__imagined_share", -0.1, "a share between 0 and 1"),
        ("cost__recall", 1.0, "a number between 0 and 1"),
        ("agent__discount", 0.0, "a number between 0 and 1"),
        ("seeds", 0, "at least 1"),
        ("train__steps", 0, "at least 1"),
        ("agent__learning_rate", 0.0, "a number above 0"),
        ("cost__margin", -0.1, "0 or more"),
        ("env__workers", -1, "0 or more"),
        ("data__regime", "dangerous", "one of ('safe', 'limited', 'full')"),
        ("env__backend", "gpu", "one of ('batched', 'official')"),
        ("knowledge__labeller", "oracle", "one of ('rule', 'states')"),
        ("data__source", "minari:", "collect, minari:<dataset id> or dsrl:<file or task>"),
        ("data__source", "somewhere", "collect, minari:<dataset id> or dsrl:<file or task>"),
        ("train__steps", 4001, "a multiple of --config.train.chunk=250"),
        ("evaluation__interim_every", 300, "a multiple of --config.train.chunk=250"),
        ("rollouts__interval", 100, "a divisor of --config.train.chunk=250"),
        ("dynamics__elites", 9, "at most --config.dynamics.members=5"),
        ("agent__risk", 1.0, "0 or more and below 1"),
        ("evaluation__foreseen", -1, "0 or more"),
        ("cost__margin", math.inf, "a finite number"),
        ("cost__deviations", math.nan, "a finite number"),
    ],
)
def test_a_bad_value_is_told_with_what_is_expected(name: str, value: Any, expected: str) -> None:
    text = refusal(changed(**{name: value}))
    assert f"--config.{name.replace('__', '.')}: found {value!r}, expected {expected}" in text


def test_a_risk_asks_for_what_is_foreseen() -> None:
    text = refusal(changed(agent__risk=0.2, evaluation__foreseen=0))
    assert "--config.evaluation.foreseen: found 0, expected at least 1" in text
    validate(changed(agent__risk=0.2))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("train__steps", 1e3, "a value of type int"),
        ("train__steps", True, "a value of type int"),
        ("baseline", 1, "a value of type bool"),
        ("task", None, "a value of type str"),
        ("cost__margin", "wide", "a value of type float"),
        ("agent__hidden", 128, "a tuple of any number ints"),
        ("agent__hidden", (128, 0.5), "a tuple of any number ints"),
        ("data__collect__speed", (0.3,), "a tuple of 2 floats"),
        ("data__collect__gains", (0.0, "a"), "a tuple of any number floats"),
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
    assert "--config.train.stepz: found 5, but there is no such setting" in text


def test_all_problems_are_told_at_once() -> None:
    text = refusal(changed(seeds=0, data__regime="x", train__steps=1))
    assert len(text.splitlines()) == 4


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
        "agent.hidden": ("(64, 32)", (64, 32)),
        "baseline": ("false", False),
        "knowledge.text": ("slow down, always", "slow down, always"),
    }
    config = parse(QUICK, *(f"--config.{k}={text}" for k, (text, _) in overrides.items()))
    for name, (_, value) in overrides.items():
        *path, last = name.split(".")
        section = getattr(config, path[0]) if path else config
        assert getattr(section, last) == value
    validate(config)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([QUICK, "--config.train.stepz=5"], "no such setting; did you mean train.steps?"),
        ([QUICK, "--config.train=5"], "no such setting; its settings: train.steps, "),
        ([QUICK, "--noconfig.baselin"], "no such setting; did you mean baseline?"),
        ([QUICK, "--config.train.steps=many"], "config.train.steps=many"),
        ([QUICK, "--config.train.steps=1.5"], "config.train.steps=1.5"),
        ([QUICK, "--config.baseline=perhaps"], "config.baseline=perhaps"),
        ([QUICK, "--steps=5"], "steps"),
        (["--config=experiments/nope.py"], "no file 'experiments/nope.py'; experiments there: "),
        (["--config=experiments/nope.py:quick"], "no file 'experiments/nope.py'"),
        (["--config", "experiments/nope.py"], "no file 'experiments/nope.py'"),
        (["--config=experiments/point_goal.py:nope"], "no variant 'nope'"),
    ],
)
def test_mistakes_on_the_command_line_are_told_in_one_line(
    parse: Any, arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(*arguments)
    text = str(exit.value)
    assert text.startswith("error: ") and words in text
    assert len(text.splitlines()) == 1


@pytest.mark.slow
def test_the_command_itself_answers_in_words_and_makes_no_folder(tmp_path: Path) -> None:
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
