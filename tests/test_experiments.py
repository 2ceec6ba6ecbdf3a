"""Every file in experiments/: it loads, can be run, and reports the results of the README."""

import ast
import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest

from proco_jax.config.presets import COMPARED, VELOCITY_MARGIN
from proco_jax.config.schema import (
    ALGORITHMS,
    AUGMENTATIONS,
    SHIELDS,
    Config,
    differences,
    to_json,
)
from proco_jax.config.validation import validate
from proco_jax.envs.tasks import TASKS, get_task
from proco_jax.knowledge.grounding import ground

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"
FILES = sorted(EXPERIMENTS.glob("*.py"))
VARIANTS = ("quick", "default", "paper")

# Columns of the README's table of all tasks: augmentation and shield, and what a cell holds.
POLICIES = {
    "logs alone": ("none", "none"),
    "logs alone, planner": ("none", "planner"),
    "PROCO": ("proco", "none"),
    "PROCO, planner": ("proco", "planner"),
}
CELL = "return / cost / violation-free"

COMPARISONS = [file for file in FILES if file.stem.startswith("compare_")]
RUNS = [file for file in FILES if file not in COMPARISONS]

every_run = pytest.mark.parametrize("file", RUNS, ids=lambda path: path.stem)
every_file = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def load(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text: a list of rows each, cells by the names of their columns."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        row = line.strip()
        is_row = row.startswith("|") and row.endswith("|")
        if is_row and not inside:
            found.append([])
        if is_row:
            found[-1].append([cell.strip() for cell in row[1:-1].split("|")])
        inside = is_row
    return [
        [dict(zip(head, row, strict=True)) for row in rows]
        for head, rule, *rows in found
        if all(set(cell) <= set(":-") for cell in rule)
    ]


def published(task: str) -> list[dict[str, str]]:
    """The rows of the README's tables of results for one task, in its wide table one a policy."""
    rows = [row for table in tables((ROOT / "README.md").read_text()) for row in table]
    own = [row for row in rows if row.get("task") == task]
    policies = [
        {"augmentation": augmentation, "shield": shield, CELL: row[column]}
        for row in own
        for column, (augmentation, shield) in POLICIES.items()
        if column in row
    ]
    return own + policies


def test_every_task_has_one_experiment() -> None:
    assert {"car_button", "point_goal"} <= {file.stem for file in FILES}
    assert sorted(load(file).get_config().task for file in RUNS) == sorted(TASKS)


@pytest.mark.parametrize("velocity", [False, True])
def test_experiments_of_a_family_share_their_settings(velocity: bool) -> None:
    """One setting for navigation and one for velocity, but for margins in proportion to limits."""
    configs = [load(file).get_config() for file in RUNS]
    own = [c for c in configs if (get_task(c.task).kind == "Velocity") == velocity]
    assert len(own) >= 5
    for config in own:
        if velocity:
            # A share of the limit on speed, which is the task's.
            share = config.cost.margin / get_task(config.task).velocity_limit
            assert share == pytest.approx(VELOCITY_MARGIN)
            config.cost.margin = own[0].cost.margin
        changed = {line.split(":")[0] for line in differences(config, to_json(own[0]))}
        assert changed <= {"experiment", "task"}


@every_file
@every_variant
def test_every_variant_can_be_run(file: Path, variant: str, tmp_path: Path) -> None:
    config = load(file).get_config(variant)
    validate(config)
    assert (config.experiment, config.variant) == (file.stem, variant)
    task = get_task(config.task)
    assert task.name == config.task
    grounding = ground(config, task.spec, tmp_path, lambda line: None)
    # A language model wrote the rules, and is not asked again.
    assert grounding.model == "recorded" and len(grounding.rules) == 3
    assert grounding.usage().calls == 0


@every_file
def test_the_default_variant_is_used_without_a_variant(file: Path) -> None:
    module = load(file)
    assert module.get_config() == module.get_config("default")


@every_file
def test_variants_differ_and_share_no_section(file: Path) -> None:
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
    command = "compare" if file in COMPARISONS else "main"
    assert f"python -m proco_jax.{command} --config=experiments/{file.name}" in docstring(file)


def test_tables_are_read_by_hand() -> None:
    text = """
        | a, b | c |
        | :-- | --: |
        | 1 [0, 2] | x |
        | 3 | |

        no | table

        | d |
        | - |
    """
    assert tables(text) == [[{"a, b": "1 [0, 2]", "c": "x"}, {"a, b": "3", "c": ""}], []]


@every_run
def test_the_results_in_the_docstring_are_those_of_the_readme(file: Path) -> None:
    own = published(load(file).get_config().task.removeprefix("Safety"))
    own_tables = tables(docstring(file))
    # A table here if and only if the README has rows of the task.
    assert len(own_tables) == bool(own)
    if not own_tables:
        return
    (rows,) = own_tables
    columns = set(rows[0])
    assert len(rows) >= 2 and len(columns) >= 3
    if CELL in columns:
        assert "3 seeds x 20 episodes" in docstring(file)
    found = [{name: row[name] for name in columns} for row in own if columns <= set(row)]
    assert found, f"no table of results in the README has the columns {sorted(columns)}"
    for row in rows:
        # Once, so that the columns identify a row.
        assert found.count(row) == 1, f"{row} is no row of the README's table"


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda path: path.stem)
def test_a_comparison_has_every_algorithm_augmentation_and_shield(file: Path) -> None:
    assert set(ALGORITHMS) <= set(COMPARED)
    config = load(file).get_config()
    assert set(config.algorithms) == set(ALGORITHMS)
    assert set(config.augmentations) == set(AUGMENTATIONS)
    assert set(config.shields) == set(SHIELDS)
    # The settings are those of the task's own experiment, whose store a comparison may share.
    own = load(EXPERIMENTS / f"{file.stem.removeprefix('compare_')}.py").get_config()
    for section in ("data", "dynamics", "cost", "exploration", "rollouts", "train"):
        assert getattr(config, section) == getattr(own, section)


@every_file
def test_the_quick_variant_is_the_shortest_and_the_paper_variant_the_longest(file: Path) -> None:
    module = load(file)
    budgets = [module.get_config(variant).train for variant in VARIANTS]
    steps = [budget.steps for budget in budgets]
    assert steps == sorted(steps) and steps[-1] == 1_000_000
    rows = [budget.steps * budget.batch for budget in budgets]
    assert all(4 * fewer <= more for fewer, more in itertools.pairwise(rows))
    assert isinstance(module.get_config(), Config)
