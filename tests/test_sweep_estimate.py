"""Memory and time of a sweep before it runs: by hand, and a probe against the calculation."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks.small_settings import SMALL
from proco_jax.augmentation.base import Context
from proco_jax.common.files import write_text
from proco_jax.sweeps import estimate
from proco_jax.sweeps.description import Sweep, Unit, expand
from proco_jax.sweeps.folder import SECONDS, Root
from proco_jax.training.loop import Program, make_program

CHOSEN = {key: value for key, value in SMALL.items() if key != "evaluation.interim_episodes"}


def units(seeds: int = 4, augmentations: tuple[str, ...] = ("none",)) -> list[Unit]:
    return expand(
        Sweep(
            ("point_goal",),
            "quick",
            algorithms=("bc",),
            augmentations=augmentations,
            shields=("none",),
            hyperparameters={"bc.learning_rate": (1e-3, 1e-2)},
            settings=CHOSEN | {"encoder.rings": False},
            seeds=seeds,
        )
    )


def program_and_context(augmentation: str = "none") -> tuple[Program, Context]:
    config = units()[0].runs[0].config
    program = make_program(config, estimate.task_spec(config), "bc", augmentation)
    return program, estimate.abstract_context(config, augmentation, 1)


def lines(root: Root, **changes: Any) -> list[str]:
    given: dict[str, Any] = {
        "members": 0,
        "seconds_per_step": 0.0,
        "probe": False,
        "transitions": 1000,
    }
    return list(estimate.plan_lines(root, units(), **(given | changes)))


def test_peak_of_a_program_by_hand() -> None:
    def program(x: jax.Array) -> jax.Array:
        # At the most: a sum of 4 bytes, an array of 40, and the sum of that.
        return (x * 2).sum() + (x + 1).sum()

    traced = jax.make_jaxpr(program)(jnp.zeros(10))
    assert estimate.peak_bytes(traced.jaxpr) == 48

    def deep(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda i, y: jnp.outer(y, y).sum(0), x)

    traced = jax.make_jaxpr(deep)(jnp.zeros(10))
    assert estimate.peak_bytes(traced.jaxpr) >= 400


def test_bytes_of_a_tree_count_typed_keys_as_two_integers() -> None:
    tree = {"a": jnp.zeros((2, 3)), "key": jax.random.key(0), "none": None, "number": 3.0}
    assert estimate.tree_bytes(tree) == 2 * 3 * 4 + 8


def test_members_fit_by_memory_and_are_never_more_than_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, context = program_and_context()
    each = 3 * estimate.tree_bytes(estimate.abstract_states(program, context))
    shared = estimate.tree_bytes(context)
    for memory, expected in ((shared + 5 * each, 5), (shared + 100 * each, 8), (0, 1)):
        monkeypatch.setattr(estimate, "device_memory", lambda memory=memory: memory)
        assert estimate.fitting_members(program, context, 8) == expected


def test_a_probe_measures_no_more_than_what_is_calculated() -> None:
    program, context = program_and_context()
    states = 3 * estimate.tree_bytes(estimate.abstract_states(program, context))
    measured = estimate.measured_bytes(program, context)
    assert states <= measured <= estimate.member_bytes(program, context)


def test_a_plan_says_members_memory_and_time(tmp_path: Path) -> None:
    root, (unit,) = Root(tmp_path), units()
    head, body, time, memory = lines(root)
    assert head == "1 units, 2 runs, 8 policies; 0 units finished"
    assert "8 members (2 runs x 4 seeds), 8 at once;" in body
    assert time.startswith("time: unknown: give --seconds_per_step") and "by calculation" in memory
    body, time = lines(root, members=3, seconds_per_step=9.0)[1:3]
    # 40 steps of 9 s in each of 3 programs.
    assert "3 at once in 3 turns" in body and time.startswith("time: 0.3 h of training")
    write_text(root.unit(unit.name) / SECONDS, "7200\n")
    for run in unit.runs:
        write_text(root.run(run.name) / "done.json", "{}")
    assert lines(root)[0].endswith("1 units finished")


@pytest.mark.usefixtures("unchecked_keys")
def test_a_probe_times_a_step(tmp_path: Path) -> None:
    body, time, memory = lines(Root(tmp_path), probe=True)[1:]
    assert "ms a step" in body and "by probe" in time and "by probe" in memory
