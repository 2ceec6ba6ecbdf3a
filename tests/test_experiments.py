"""Every file in experiments/: loads, can be run, and says how."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from proco_jax.config.schema import Config, differences, to_json, validate
from proco_jax.envs.tasks import get_task
from proco_jax.knowledge.grounding import ground

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
FILES = sorted(EXPERIMENTS.glob("*.py"))
VARIANTS = ("quick", "default", "paper")

every_file = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def load(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_experiments() -> None:
    assert {"car_button", "point_goal"} <= {file.stem for file in FILES}


@every_file
@every_variant
def test_every_variant_can_be_run(file: Path, variant: str, tmp_path: Path) -> None:
    config = load(file).get_config(variant)
    validate(config)
    assert (config.experiment, config.variant) == (file.stem, variant)
    task = get_task(config.task)
    assert task.name == config.task
    grounding = ground(config, task.spec, tmp_path, lambda line: None)
    assert grounding.model == "shipped" and not list(tmp_path.iterdir())


@every_file
def test_no_variant_is_the_default_one(file: Path) -> None:
    module = load(file)
    assert module.get_config() == module.get_config("default")


@every_file
def test_variants_differ_and_share_nothing(file: Path) -> None:
    module = load(file)
    quick, again = module.get_config("quick"), module.get_config("quick")
    assert differences(quick, to_json(module.get_config("paper")))
    quick.data.episodes += 1
    assert again == module.get_config("quick")


@every_file
def test_an_unknown_variant_is_refused_with_the_known_ones(file: Path) -> None:
    with pytest.raises(ValueError, match="no variant 'slow'") as error:
        load(file).get_config("slow")
    assert all(variant in str(error.value) for variant in VARIANTS)


@every_file
def test_the_docstring_names_its_command(file: Path) -> None:
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert f"python -m proco_jax.main --config=experiments/{file.name}" in text


@every_file
def test_a_quick_look_is_small_and_the_paper_long(file: Path) -> None:
    module = load(file)
    steps = [module.get_config(variant).train.steps for variant in VARIANTS]
    assert steps == sorted(steps) and steps[-1] == 1_000_000
    assert isinstance(module.get_config(), Config)
