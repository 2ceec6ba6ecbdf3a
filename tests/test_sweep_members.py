"""Configs trained as members of one program are what each would have become alone."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from core_toys import TASK, same_leaves, tiny_config, toy_dataset

from proco_jax.augmentation.base import Context
from proco_jax.config.schema import Config, replaced
from proco_jax.envs.tasks import get_task
from proco_jax.models.normalizer import fit_normalizer
from proco_jax.observation import Field, ObservationSpec
from proco_jax.pipeline.members import member_groups, train_configs
from proco_jax.pipeline.policies import Learner, train_policies
from proco_jax.pipeline.workdir import open_run
from proco_jax.training.loop import make_program

LEARNER, MADE_OF = Learner("bc", "none"), {"logs": "0" * 12}
# Without rings, a program compiles fast.
FLAT = ObservationSpec((Field("numbers", TASK.observation.size, "flat", "", "All numbers."),))
BASE = replaced(
    tiny_config(), {"evaluation.interim_episodes": 0, "train.chunk": 8, "train.checkpoint_every": 8}
)


def config(rate: float) -> Config:
    return replaced(BASE, {"bc.learning_rate": rate})


def programs(*rates: float) -> list[Any]:
    task = TASK._replace(observation=FLAT)
    return [make_program(config(rate), task, *LEARNER) for rate in rates]


@pytest.fixture(scope="module")
def context() -> Context:
    data = toy_dataset()
    return Context(data, fit_normalizer(FLAT, np.asarray(data.obs)), None)


def trained(store: Path) -> list[Path]:
    return sorted((p for p in (store / "policies").iterdir() if p.is_dir()), key=lambda p: p.name)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_keys")
def test_members_equal_their_own_trainings(tmp_path: Path, context: Context) -> None:
    rates, task = (1e-3, 3e-2), get_task("SafetyPointGoal1")
    alone = []
    for rate, program in zip(rates, programs(*rates), strict=True):
        with open_run(config(rate), tmp_path / f"alone-{rate}", log=lambda line: None) as run:
            alone.append(train_policies(run, program, task, context, LEARNER, MADE_OF).state)
    assert not np.allclose(*(jax.tree.leaves(state.algorithm)[1] for state in alone))
    for limit in (0, 1):
        store = tmp_path / f"store-{limit}"
        with open_run(
            config(rates[0]), tmp_path / f"u{limit}", store, log=lambda line: None
        ) as run:
            train_configs(run, programs(*rates), context, LEARNER, MADE_OF, limit)
            assert not (run.workdir / "training" / "bc-none").exists()
        assert {p.name for p in trained(store)} == {p.name for p in trained(tmp_path / "store")}
        for rate, program, expected in zip(rates, programs(*rates), alone, strict=True):
            lines: list[str] = []
            with open_run(config(rate), tmp_path / f"{limit}-{rate}", store, log=lines.append) as r:
                found = train_policies(r, program, task, context, LEARNER, MADE_OF).state
            # It was taken from the store, not trained.
            assert any("policies: found" in line for line in lines)
            same_leaves(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        # Each number is the members of a program, each list a group that completes its configs.
        (0, [[6]]),
        (6, [[6]]),
        (5, [[4], [2]]),
        (2, [[2], [2], [2]]),
        (1, [[1, 1], [1, 1], [1, 1]]),
    ],
)
def test_groups_hold_every_seed_of_every_config_once(limit: int, expected: list[list[int]]) -> None:
    made = programs(0.1, 0.2, 0.3)
    groups = member_groups(made, limit)
    assert [[len(part) for part in group] for group in groups] == expected
    found = [(id(m.program), m.index) for group in groups for part in group for m in part]
    assert sorted(found) == sorted((id(program), i) for program in made for i in range(2))
    assert member_groups([], limit) == []
