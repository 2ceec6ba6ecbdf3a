"""Bad use and bad luck: clear errors, nothing hangs, the other worlds go on."""

import os
import time
from typing import Any

import numpy as np
import pytest

from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.batched.worlds import blueprint
from proco_jax.envs.tasks import get_task
from proco_jax.envs.vector import make_vector_env

HOPPER = get_task("HopperVelocity")
POINT = get_task("PointGoal1")


@pytest.fixture
def env() -> Any:
    with BatchedEnv(HOPPER, 4, workers=2) as worlds:
        worlds.reset([0, 1, 2, 3])
        yield worlds


def test_actions_of_a_wrong_shape_are_refused(env: BatchedEnv) -> None:
    with pytest.raises(ValueError, match=r"expected actions \[4, 3\], found \(4, 2\)"):
        env.step(np.zeros((4, 2)))


def test_actions_that_are_not_finite_are_refused_and_nothing_steps(env: BatchedEnv) -> None:
    before = env.step(np.zeros((4, 3))).obs
    bad = np.zeros((4, 3))
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match="the action of world 2 is not finite"):
        env.step(bad)
    assert not np.array_equal(env.step(np.zeros((4, 3))).obs, before)


@pytest.mark.parametrize(
    ("seeds", "worlds", "message"),
    [
        ([1], [0, 1], "one seed for each distinct world"),
        ([1, 2], [0, 0], "one seed for each distinct world"),
        ([1], [4], "worlds are 0 to 3"),
        ([-1], [0], "seeds are 0 to"),
    ],
)
def test_resets_that_make_no_sense_are_refused(
    env: BatchedEnv, seeds: list[int], worlds: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        env.reset(seeds, worlds)


@pytest.mark.parametrize(("worlds", "workers"), [(0, 1), (1, -1)])
def test_counts_that_make_no_sense_are_refused(worlds: int, workers: int) -> None:
    with pytest.raises(ValueError, match="at least 1 world"):
        BatchedEnv(HOPPER, worlds, workers)


def test_more_worlds_than_memory_are_refused_before_any_is_built() -> None:
    with pytest.raises(MemoryError, match=r"GiB are free: ask for at most \d+ worlds"):
        BatchedEnv(HOPPER, 10**9)


def test_an_error_in_a_thread_is_raised_and_ends_the_worlds(env: BatchedEnv) -> None:
    def dies(*_: Any) -> None:
        raise SystemExit("a thread dies")

    blocks: Any = env._blocks
    blocks[0].move = dies
    with pytest.raises(SystemExit, match="a thread dies"):
        env.step(np.zeros((4, 3)))
    with pytest.raises(RuntimeError, match="cannot continue: SystemExit: a thread dies"):
        env.step(np.zeros((4, 3)))


@pytest.mark.parametrize("bad", [0, 3])
def test_when_an_error_is_raised_no_thread_is_still_at_work(bad: int) -> None:
    with BatchedEnv(HOPPER, 4, workers=2) as env:
        env.reset(range(4))
        moved: list[int] = []

        def moves(rows: list[int], _: Any) -> None:
            if bad in rows:
                raise ValueError(f"world {bad}")
            time.sleep(0.05)
            moved.extend(rows)

        blocks: Any = env._blocks
        blocks[0].move = moves
        with pytest.raises(ValueError, match=f"world {bad}"):
            env.step(np.zeros((4, 3)))
        assert sorted(moved) == ([2, 3] if bad == 0 else [0, 1])


def test_closed_worlds_say_so() -> None:
    env = BatchedEnv(HOPPER, 2, workers=2)
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="it was closed"):
        env.reset([0, 1])


def test_a_finished_world_repeats_itself_until_its_reset(env: BatchedEnv) -> None:
    for _ in range(200):
        result = env.step(np.ones((4, 3)))
        if result.terminated[0]:
            break
    assert result.terminated[0] and not result.truncated[0]
    after = env.step(np.ones((4, 3)))
    np.testing.assert_array_equal(after.obs[0], result.obs[0])
    assert (after.reward[0], after.cost[0], after.terminated[0], after.truncated[0]) == (
        0,
        0,
        False,
        True,
    )
    env.reset([9], [0])
    assert not env.step(np.ones((4, 3))).truncated[0]


def test_worlds_go_on_when_all_others_of_a_block_have_ended() -> None:
    with BatchedEnv(HOPPER, 130, workers=2) as many, BatchedEnv(HOPPER, 1) as one:
        many.reset([7], [0])  # the second block, of 65, has none that runs
        one.reset([7])
        found, alone = many.step(np.ones((130, 3))), one.step(np.ones((1, 3)))
    np.testing.assert_array_equal(found.obs[0], alone.obs[0])
    assert not found.truncated[0] and found.truncated[1:].all()


def test_results_are_not_changed_by_later_steps(env: BatchedEnv) -> None:
    first = env.step(np.ones((4, 3)))
    copies = [part.copy() for part in first]
    env.step(np.ones((4, 3)))
    for part, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


@pytest.mark.parametrize("how", ["nan", "huge"])
def test_unstable_physics_ends_that_episode_alone_and_is_counted(how: str, tmp_path: Any) -> None:
    folder = os.getcwd()
    os.chdir(tmp_path)
    try:
        with BatchedEnv(POINT, 2, workers=1) as env, BatchedEnv(POINT, 1, workers=1) as alone:
            env.reset([1, 2])
            alone.reset([2])
            last = env.step(np.ones((2, 2)))
            alone.step(np.ones((1, 2)))
            world_of(env).qvel[0] = np.nan if how == "nan" else 1e12
            with pytest.warns(RuntimeWarning, match="seed 1 became unstable at step 2"):
                result = env.step(np.ones((2, 2)))
            expected = alone.step(np.ones((1, 2)))
        assert env.physics_failures == 1
        assert result.terminated.tolist() == [True, False] and not result.truncated.any()
        np.testing.assert_array_equal(result.obs[0], last.obs[0])
        assert result.reward[0] == 0 and result.cost[0] == 0
        np.testing.assert_array_equal(result.obs[1], expected.obs[0])
        assert os.listdir(tmp_path) == []
    finally:
        os.chdir(folder)


def test_a_world_recovers_from_unstable_physics_at_its_reset() -> None:
    with BatchedEnv(POINT, 1, workers=1) as env:
        first = env.reset([1])
        after = env.step(np.ones((1, 2)))
        world_of(env).qvel[0] = np.nan
        with pytest.warns(RuntimeWarning):
            env.step(np.ones((1, 2)))
        np.testing.assert_array_equal(env.reset([1]), first)
        np.testing.assert_array_equal(env.step(np.ones((1, 2))).obs, after.obs)


def test_the_protocol_finds_this_backend() -> None:
    env = make_vector_env(HOPPER, 2, "batched", workers=1)
    assert isinstance(env, BatchedEnv)
    env.close()


def test_a_model_holds_no_textures() -> None:
    assert blueprint(POINT).model.nbuffer < 100_000


def world_of(env: Any) -> Any:
    """The first world of an environment."""
    return env._blocks[0]._worlds[0]
