"""The pieces of the batched worlds, against hand-worked numbers and the official code."""

import dataclasses
import importlib.util
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proco_jax.envs.batched.layout import sample_layout
from proco_jax.envs.batched.lidar import lidar, rotation_matrices
from proco_jax.envs.batched.physics import gremlin_path
from proco_jax.envs.batched.worlds import World, blueprint, place, strip
from proco_jax.envs.simulator import import_safety_gymnasium, make_official
from proco_jax.envs.tasks import get_task

SEEDS = st.integers(0, 2**32 - 1)
UPRIGHT = np.eye(3).reshape(1, 9)


def look(x: float, y: float, reach: float = 3.0) -> np.ndarray:
    return lidar(np.array([[[x, y]]]), np.array([0]), 1, np.zeros((1, 3)), UPRIGHT, reach)[0]


def test_an_object_at_the_start_of_a_bin_shows_there_and_in_the_bin_before() -> None:
    seen = look(1.5, 0.0)
    np.testing.assert_allclose(seen[[15, 0, 1]], [0.5, 0.5, 0.0])
    assert np.count_nonzero(seen) == 2


def test_an_object_in_the_middle_of_a_bin_shows_by_half_beside_it() -> None:
    angle = 2.5 * 2 * np.pi / 16
    np.testing.assert_allclose(
        look(1.5 * np.cos(angle), 1.5 * np.sin(angle))[1:4], [0.25, 0.5, 0.25]
    )


def test_an_object_out_of_reach_does_not_show() -> None:
    assert not look(3.0, 0.5).any()
    assert look(3.0, 0.5, reach=6.0).any()


def test_lidars_of_many_worlds_are_those_of_each_alone() -> None:
    random = np.random.default_rng(0)
    positions, agent = random.normal(size=(5, 7, 2)), random.normal(size=(5, 3))
    quaternions = random.normal(size=(5, 4))
    frames = rotation_matrices(quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True))
    rings = np.array([0, 0, 1, 1, 1, 2, 2])
    together = lidar(positions, rings, 3, agent, frames, 3.0)
    for i in range(5):
        row = slice(i, i + 1)
        alone = lidar(positions[row], rings, 3, agent[row], frames[row], 3.0)
        np.testing.assert_array_equal(alone[0], together[i])


def test_rotation_matrices_are_mujocos() -> None:
    quaternion = np.array([0.5, -0.1, 0.7, 0.2])
    quaternion /= np.linalg.norm(quaternion)
    expected = np.zeros(9)
    mujoco.mju_quat2Mat(expected, quaternion)  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(rotation_matrices(quaternion[None])[0], expected, atol=1e-15)


def test_gremlins_start_at_the_top_of_their_circle() -> None:
    path = gremlin_path(timestep=0.002, steps=2, travel=0.35, height=0.1)
    np.testing.assert_allclose(path[0, 0], [0.0, 0.35, 0.1])
    np.testing.assert_allclose(path[1, 0, :2], 0.35 * np.array([np.sin(0.02), np.cos(0.02)]))


@pytest.fixture(scope="module")
def generator() -> Any:
    """The official random generator as it was shipped, whatever else has mended it."""
    import_safety_gymnasium()
    from safety_gymnasium.utils import random_generator

    spec = importlib.util.spec_from_file_location("as_shipped", str(random_generator.__file__))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RandomGenerator()


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(["PointGoal2", "CarPush2", "PointCircle2"]), seed=SEEDS)
def test_layouts_and_the_random_stream_are_the_official_ones(
    generator: Any, name: str, seed: int
) -> None:
    assert_same_layout(generator, name, seed)


@pytest.mark.parametrize("name", ["PointButton1", "CarButton2"])
def test_a_crowded_layout_is_the_official_one(generator: Any, name: str) -> None:
    assert_same_layout(generator, name, seed=4)


def assert_same_layout(generator: Any, name: str, seed: int) -> None:
    plan = blueprint(get_task(name))
    conf = plan.rules.placements_conf
    generator.set_placements_info(conf.placements, conf.extents, conf.margin)
    generator.set_random_seed(seed)
    random = np.random.RandomState(seed)
    layout = sample_layout(random, plan.placements)
    assert {k: tuple(v) for k, v in generator.build_layout().items()} == layout
    assert random.random_sample() == generator.random_generator.random_sample()


def test_no_room_for_everything_is_said() -> None:
    plan = blueprint(get_task("PointGoal2"))
    crowded = tuple(dataclasses.replace(p, apart=(9.0,) * len(p.apart)) for p in plan.placements)
    with pytest.raises(ValueError, match="no room for 22 objects"):
        sample_layout(np.random.RandomState(0), crowded)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PointGoal2", "CarButton2", "CarPush2", "PointCircle1"])
def test_a_layout_written_into_a_model_is_the_model_compiled_from_it(name: str) -> None:
    task = get_task(name)
    plan, official = blueprint(task), make_official(task).unwrapped
    world = World(plan)
    for seed in (5, 6):
        random = np.random.RandomState(seed)
        layout = sample_layout(random, plan.placements)
        place(
            world.model, world.data, plan, layout, random.uniform(0, 2 * np.pi, len(plan.rotated))
        )
        official.reset(seed=seed)
        sensors = tuple(official.task.agent.build_sensor_observation_space())
        xml = strip(official.task.world.xml_string, sensors)
        compiled = mujoco.MjModel.from_xml_string(xml)  # pyright: ignore[reportAttributeAccessIssue]
        written, expected = _numbers(world.model), _numbers(compiled)
        assert {k for k in expected if not np.array_equal(written[k], expected[k])} == set()


def _numbers(model: Any) -> dict[str, np.ndarray]:
    arrays = {k: getattr(model, k) for k in dir(model) if not k.startswith("_")}
    numbers = {k: v.copy() for k, v in arrays.items() if isinstance(v, np.ndarray)}
    return numbers | {"meaninertia": np.array(model.stat.meaninertia)}
