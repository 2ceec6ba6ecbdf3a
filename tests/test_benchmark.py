"""The benchmark measures what it says, on a toy budget."""

import json
from typing import Any

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from benchmarks import envs as benchmark
from benchmarks import mujoco as benchmark_mujoco
from benchmarks import rule_shares
from benchmarks.bare_mujoco import BareWorlds
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.tasks import get_task

POINT = get_task("PointCircle1")


def test_a_row_has_consistent_rates() -> None:
    actions = benchmark.record_actions(POINT, worlds=2, steps=3)
    assert actions.shape == (3, 2, 2)
    row = benchmark.measure(POINT, 1, actions)
    assert (row.task, row.threads, row.worlds) == ("PointCircle1", 1, 2)
    assert row.ratio == pytest.approx(row.batched_steps_per_s / row.official_steps_per_s)
    assert row.share_of_bare == pytest.approx(row.batched_steps_per_s / row.bare_steps_per_s)
    assert min(row.official_reset_ms, row.batched_reset_ms, row.bare_steps_per_s) > 0


def test_resets_are_paid_once_an_episode() -> None:
    clock = benchmark._Clock(POINT)
    clock.reset_s = 5.0
    clock.spend(lambda: None, 10)
    assert clock.seconds_a_step(500) == pytest.approx(0.01, rel=0.01)


def test_bare_worlds_move_as_the_batched_ones() -> None:
    actions = np.ones((1, 2), np.float32)
    bare = BareWorlds(POINT, 1, 1)
    bare.reset([3], [0])
    with BatchedEnv(POINT, 1, 1) as env:
        env.reset([3])
        for _ in range(20):
            env.step(actions)
            bare.step(actions)
        blocks: Any = env._blocks
        np.testing.assert_allclose(bare._data[0].qpos, blocks[0]._worlds[0].qpos, atol=1e-6)
    bare.close()


def test_what_was_taken_from_mujoco_changes_no_bit() -> None:
    variants = benchmark_mujoco.compare(get_task("PointGoal1"), steps=30)
    taken = [variant for variant in variants if not variant.name.startswith(" ")]
    assert len(taken) == 3 and all(variant.identical for variant in taken)
    assert not all(variant.identical for variant in variants)
    text = benchmark_mujoco.format_variants(get_task("PointGoal1"), variants, 30)
    assert "differs: refused" in text


def test_rows_are_written_whole(tmp_path: Any) -> None:
    out = tmp_path / "envs.json"
    small = {"tasks": ["PointCircle1"], "threads": ["1"], "worlds": 2, "steps": 2}
    flags.FLAGS(["benchmark"])
    with flagsaver.flagsaver(out=str(out), **small):
        benchmark.main(["benchmark", "envs"])
    text = json.loads(out.read_text())
    assert [row["task"] for row in text["rows"]] == ["PointCircle1"]
    assert text["rows"][0]["resets_included"] is True and text["machine"]["mujoco"] == "2.3.3"
    assert list(tmp_path.iterdir()) == [out]


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one command of envs, memory, mujoco"):
        benchmark.main(["benchmark", "games"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PointCircle1", "HopperVelocity"])
def test_shares_of_rules_are_measured_on_violation_free_episodes(name: str) -> None:
    task = get_task(name)
    (rule,) = rule_shares.rules_of(task, ["shipped"])
    (row,) = rule_shares.measure(task, [rule], episodes=1, most=3)
    assert (row.task, row.episodes, row.rule) == (task.name, 1, rule)
    assert 5 < row.states <= 501 and row.logged < 0.01 < row.varied < 0.5


def test_shares_need_an_episode_without_a_violation() -> None:
    # The first controller of every mixture avoids nothing.
    with pytest.raises(ValueError, match="all of 1 episodes have a cost"):
        rule_shares.measure(get_task("PointCircle2"), ["circle_lidar[0] > 1"], 1, 1)
