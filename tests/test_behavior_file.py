"""The file of behavior policies, what they see, and how episodes are recorded with them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from proco_jax.config.schema import CollectConfig, Config, DataConfig
from proco_jax.data.collection import make_recipe, recipe_id, simulation_of
from proco_jax.envs.behavior_file import (
    BehaviorPolicies,
    load_policies,
    save_policies,
    shipped_policies,
)
from proco_jax.envs.behavior_inputs import (
    NAVIGATION_PRICES,
    PRICE_INPUTS,
    VELOCITY_PRICES,
    Prices,
    policy_inputs,
    price_at,
    price_input,
)
from proco_jax.envs.behavior_mixture import PolicyMixture, draw_behavior, recorded_mixture
from proco_jax.envs.tasks import TASKS, get_task

GOAL = get_task("PointGoal1")
CIRCLE = get_task("CarCircle2")
SHIPPED = [task for task in TASKS.values() if shipped_policies(task).is_file()]
SNAPSHOTS = 3


def toy_policies(task=GOAL, seed=0):
    random = np.random.default_rng(seed)
    inputs = policy_inputs(task, np.zeros((1, task.spec.size), np.float32)).shape[1]
    sizes = (inputs + PRICE_INPUTS, 8, task.action_size)

    def normal(*shape):
        return random.normal(size=(SNAPSHOTS, *shape)).astype(np.float16).astype(np.float32)

    return BehaviorPolicies(
        header={"task": task.name, "command": "a toy", "prices": list(NAVIGATION_PRICES)},
        shift=normal(inputs),
        scale=np.abs(normal(inputs)),
        weights=(normal(*sizes[:2]), 0.125 * normal(*sizes[1:])),
        biases=(normal(8), 0.125 * normal(task.action_size)),
        log_std=normal(PRICE_INPUTS, task.action_size),
    )


def test_a_file_gives_back_what_was_saved(tmp_path):
    path = tmp_path / "toy.npz"
    policies = toy_policies()
    save_policies(path, policies)
    found = load_policies(path, GOAL)
    for name in ("shift", "scale", "weights", "biases", "log_std"):
        for a, b in zip(getattr(policies, name), getattr(found, name), strict=True):
            np.testing.assert_array_equal(a, b)
    assert found.header["command"] == "a toy" and found.snapshots == SNAPSHOTS
    assert [p.name for p in tmp_path.iterdir()] == ["toy.npz"]


def test_damage_is_refused_wherever_it_is(tmp_path):
    path = tmp_path / "toy.npz"
    save_policies(path, toy_policies())
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for at in [*random.integers(0, len(whole), 40), 0, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            found = load_policies(path, GOAL)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            # Bytes of the archive that carry nothing, such as dates.
            np.testing.assert_array_equal(found.weights[0], toy_policies().weights[0])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"is damaged.*proco_jax.behaviors --task=SafetyPointGoal1"
    ):
        load_policies(path, GOAL)


def test_changed_numbers_are_refused_although_the_archive_is_intact(tmp_path):
    path = tmp_path / "toy.npz"
    save_policies(path, toy_policies())
    with np.load(path) as arrays:
        parts = dict(arrays)
    parts["weight0"] = parts["weight0"] + np.float16(1.0)
    np.savez(path, **parts)
    with pytest.raises(ValueError, match="its digest differs"):
        load_policies(path, GOAL)


def test_files_of_other_tasks_and_missing_ones_are_refused(tmp_path):
    path = tmp_path / "toy.npz"
    with pytest.raises(FileNotFoundError, match=r"no behavior policies in .*toy.npz; train"):
        load_policies(path, GOAL)
    save_policies(path, toy_policies())
    with pytest.raises(ValueError, match=r"policies of SafetyPointGoal1, expected SafetyCarGoal1"):
        load_policies(path, get_task("CarGoal1"))
    wide = toy_policies()
    wide = wide._replace(weights=(wide.weights[0][:, :-1], wide.weights[1]))
    save_policies(path, wide)
    with pytest.raises(ValueError, match="another version"):
        load_policies(path, GOAL)


def test_numbers_too_large_for_half_precision_are_refused(tmp_path):
    policies = toy_policies()
    policies.biases[0][0, 0] = 1e6
    with pytest.raises(ValueError, match=r"bias0 .* half precision"):
        save_policies(tmp_path / "toy.npz", policies)
    assert not list(tmp_path.iterdir())


def test_means_by_hand():
    ones = np.ones((1, PRICE_INPUTS + 2, 1), np.float32)
    policies = BehaviorPolicies(
        header={},
        shift=np.array([[1.0, 0.0]], np.float32),
        scale=np.array([[2.0, 100.0]], np.float32),
        weights=(ones, np.full((1, 1, 1), 3.0, np.float32)),
        biases=(np.full((1, 1), -6.0, np.float32), np.full((1, 1), 0.5, np.float32)),
        log_std=np.zeros((1, PRICE_INPUTS, 1), np.float32),
    )
    price = np.eye(PRICE_INPUTS, dtype=np.float32)[:1]
    # tanh(2 * (1.5 - 1) + 5, which is where 100 * 0.2 is clipped, + 1 - 6) = tanh(1)
    found = policies.means(np.array([[1.5, 0.2]], np.float32), price)
    np.testing.assert_allclose(found, [[3 * np.tanh(1.0) + 0.5]], rtol=1e-6)


def test_prices_between_marks_show_at_both():
    for prices in (NAVIGATION_PRICES, VELOCITY_PRICES):
        np.testing.assert_allclose(price_input(prices, np.array(0.0)), np.eye(PRICE_INPUTS)[0])
        shown = price_input(prices, np.array(prices.high))
        np.testing.assert_allclose(shown, np.eye(PRICE_INPUTS)[-1], atol=1e-9)
        many = price_input(prices, price_at(prices, np.linspace(0, 1, 50)))
        np.testing.assert_allclose(many.sum(-1), 1.0, rtol=1e-6)
        assert ((many > 0).sum(-1) <= 2).all()
    assert price_at(Prices(0.05, 5.0), 0.5) == pytest.approx(0.5)


def test_a_lidar_shows_where_the_goal_is():
    obs = np.zeros((1, GOAL.spec.size), np.float32)
    ring = np.zeros(16, np.float32)
    # 1 m away of 3, a quarter of the way through bin 2.
    ring[[1, 2, 3]] = 2 / 3 * np.array([0.75, 1.0, 0.25])
    obs[:, GOAL.spec.slices["goal_lidar"]] = ring
    angle = 2 * np.pi / 16 * 2.25
    inputs = policy_inputs(GOAL, obs)[0]
    at = 2 + 1 + 2 + 16
    direction = np.array([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(
        inputs[at : at + 4], [*(2 / 3 * direction), *(1 / 3 * direction)], rtol=1e-5
    )
    assert not inputs[at + 4 :].any()


def test_inputs_are_the_same_in_jax_and_do_not_depend_on_other_rows():
    random = np.random.default_rng(0)
    for name in ("CarGoal2", "PointButton1", "CarPush1", "PointCircle2", "AntVelocity"):
        task = get_task(name)
        obs = random.random((5, task.spec.size)).astype(np.float32)
        found = policy_inputs(task, obs)
        np.testing.assert_allclose(policy_inputs(task, jnp.asarray(obs), jnp), found, atol=2e-6)
        np.testing.assert_array_equal(policy_inputs(task, obs[2:3]), found[2:3])


def test_the_place_on_the_circle_is_that_in_the_world():
    heading, place = 0.7, np.array([0.9, -0.4])
    velocity = np.array([0.3, 0.1])
    turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
    x, y = turn @ -place
    angle = np.arctan2(y, x) % (2 * np.pi) / (2 * np.pi / 16)
    ring = np.zeros(16)
    closeness = 1 - np.hypot(x, y) / 6
    ring[int(angle)] = closeness
    ring[(int(angle) + 1) % 16] = closeness * (angle - int(angle))
    obs = np.zeros((1, CIRCLE.spec.size), np.float32)
    obs[0, CIRCLE.spec.slices["circle_lidar"]] = ring
    obs[0, CIRCLE.spec.slices["velocimeter"]] = [*(turn @ velocity), 0]
    obs[0, CIRCLE.spec.slices["magnetometer"]] = [-0.5 * np.sin(heading), -0.5 * np.cos(heading), 0]
    found = policy_inputs(CIRCLE, obs)[0, -4:]
    np.testing.assert_allclose(found, [*(place / 6), *velocity], atol=1e-6)


def test_behaviors_are_reproducible_and_of_all_kinds():
    policies, collect = toy_policies(), CollectConfig(policy_noise=(0.2, 0.8))
    drawn = [draw_behavior(policies, collect, seed) for seed in range(400)]
    assert drawn == [draw_behavior(policies, collect, seed) for seed in range(400)]
    snapshots = np.bincount([b.snapshot for b in drawn])
    assert len(snapshots) == SNAPSHOTS and snapshots.min() > 50
    assert 150 < snapshots[-1] < 250
    prices = np.array([b.price for b in drawn])
    assert 0.05 < (prices == 0).mean() < 0.16
    assert prices[prices > 0].min() < 1.0 and 30.0 < prices.max() < 35.0
    noise = np.array([b.noise for b in drawn])
    assert 0.2 <= noise.min() < 0.25 and 0.75 < noise.max() <= 0.8


def test_actions_depend_on_their_own_row_only():
    random = np.random.default_rng(0)
    obs = random.random((6, GOAL.spec.size)).astype(np.float32)
    seeds, steps = np.arange(6) + 40, np.arange(6) * 7
    whole = recorded_mixture(GOAL, toy_policies(), CollectConfig())(obs, seeds, steps)
    for k in range(6):
        alone = recorded_mixture(GOAL, toy_policies(), CollectConfig())
        np.testing.assert_array_equal(
            alone(obs[k : k + 1], seeds[k : k + 1], steps[k : k + 1]), whole[k : k + 1]
        )
    assert whole.dtype == np.float32 and (np.abs(whole) <= 1).all()
    assert len(np.unique(whole, axis=0)) > 3


def test_noise_is_the_policys_own_deviation_and_none_is_none():
    policies = toy_policies()
    obs = np.zeros((1, GOAL.spec.size), np.float32)
    policies = policies._replace(
        weights=tuple(0.0 * w for w in policies.weights),
        biases=tuple(0.0 * b for b in policies.biases),
        log_std=np.full_like(policies.log_std, np.log(0.1)),
    )

    def actions(noise):
        act = recorded_mixture(GOAL, policies, CollectConfig(policy_noise=(noise, noise)))
        return np.stack([act(obs, np.array([5]), np.array([k]))[0] for k in range(1000)])

    assert not actions(0.0).any()
    assert actions(1.0).std() == pytest.approx(0.1, rel=0.05)
    assert actions(2.0).std() == pytest.approx(0.2, rel=0.05)


def test_recipes_of_policies_name_their_file_and_those_of_controllers_stay_as_they_were(tmp_path):
    path = tmp_path / "toy.npz"
    save_policies(path, toy_policies())
    collect = CollectConfig(behavior="policies", policies=str(path))
    recipe = make_recipe(GOAL, DataConfig(collect=collect))
    digest = load_policies(path, GOAL).header["digest"]
    assert recipe_id(recipe) == f"proco/safety-point-goal1/policy-{digest[:8]}-v0"
    assert recipe.to_json()["policies"] == digest
    assert recipe.mixture == {"policy_noise": [0.5, 1.0]}
    quiet = dataclasses.replace(collect, policy_noise=(0.0, 0.5))
    assert "-mix" in recipe_id(make_recipe(GOAL, DataConfig(collect=quiet)))
    controllers = make_recipe(GOAL, DataConfig())
    assert set(controllers.to_json()) == {"task", "episodes", "seed", "mixture", "version"}
    assert set(controllers.mixture) == {"gains", "threshold", "speed", "noise"}


def test_the_config_decides_who_acts(tmp_path):
    path = tmp_path / "toy.npz"
    save_policies(path, toy_policies())
    collect = CollectConfig(behavior="policies", policies=str(path))
    config = Config(task=GOAL.name, data=DataConfig(collect=collect))
    assert isinstance(simulation_of(GOAL, config).act, PolicyMixture)
    missing = dataclasses.replace(collect, policies=str(tmp_path / "none.npz"))
    config = Config(task=GOAL.name, data=DataConfig(collect=missing))
    with pytest.raises(FileNotFoundError, match=r"none.npz; train it again"):
        simulation_of(GOAL, config)


@pytest.mark.parametrize("task", SHIPPED, ids=[task.name for task in SHIPPED])
def test_shipped_policies_load_and_act(task):
    path = shipped_policies(task)
    assert path.stat().st_size < 200_000
    policies = load_policies(path, task)
    for name in ("command", "training", "minutes", "commit", "frontier"):
        assert policies.header[name]
    assert f"--task={task.name}" in policies.header["command"]
    assert len({entry["price"] for entry in policies.header["frontier"]}) > 3
    act = recorded_mixture(task, policies, CollectConfig())
    obs = np.random.default_rng(0).normal(size=(4, task.spec.size)).astype(np.float32)
    actions = act(obs, np.arange(4), np.zeros(4, int))
    assert actions.shape == (4, task.action_size) and np.isfinite(actions).all()
    assert policies.prices.high > policies.prices.low > 0
