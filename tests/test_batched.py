"""Batched worlds are the official environment, number for number."""

import inspect
import textwrap
from collections.abc import Sequence
from typing import Any

import batched_reference as ref
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proco_jax.config.schema import CollectConfig
from proco_jax.envs.batched import navigation as batched_navigation
from proco_jax.envs.batched import physics as batched_physics
from proco_jax.envs.batched import rules as batched_rules
from proco_jax.envs.batched import state as batched_state
from proco_jax.envs.batched.env import BatchedEnv
from proco_jax.envs.batched.lidar import lidar
from proco_jax.envs.controllers import ControllerMixture
from proco_jax.envs.episodes import run_episodes
from proco_jax.envs.simulator import make_official
from proco_jax.envs.tasks import TASKS, get_task

# A seed whose careless episode meets what the task is about.
SEEDS = {"SafetyCarPush1": 1, "SafetyPointPush2": 1}
MEETS = {
    "Goal1": {"goal_met", "cost_hazards"},
    "Goal2": {"goal_met", "cost_hazards", "cost_vases_contact", "cost_vases_velocity"},
    "Button1": {"goal_met", "cost_hazards", "cost_gremlins", "cost_buttons"},
    "Button2": {"goal_met", "cost_hazards", "cost_gremlins", "cost_buttons"},
    "Push1": {"goal_met"},
    "Push2": {"goal_met", "cost_pillars"},
    "Circle1": {"cost_out_of_boundary"},
    "Circle2": {"cost_out_of_boundary"},
}


@pytest.fixture(scope="module")
def goal_episode() -> ref.Reference:
    return ref.record(get_task("PointGoal1"), seed=2, steps=300)


@pytest.fixture(scope="module")
def button_episode() -> ref.Reference:
    return ref.record(get_task("PointButton1"), seed=3, steps=300)


def test_a_goal_episode_is_the_official_one(goal_episode: ref.Reference) -> None:
    assert goal_episode.events["goal_met"] >= 1 and goal_episode.events["cost_hazards"] >= 1
    with BatchedEnv(goal_episode.task, 3, workers=2) as env:
        env.reset([7, 8, 9])
        env.step(np.ones((3, 2)))
        assert ref.mismatch(env, 1, goal_episode) == ""


def test_a_button_episode_is_the_official_one(button_episode: ref.Reference) -> None:
    assert button_episode.events["goal_met"] >= 1 and button_episode.events["cost_gremlins"] >= 1
    with BatchedEnv(button_episode.task, 2, workers=1) as env:
        assert ref.mismatch(env, 0, button_episode) == ""


def test_a_hopper_episode_is_the_official_one() -> None:
    episode = ref.record(get_task("HopperVelocity"), seed=3, steps=1000)
    assert episode.terminated[-1] and len(episode.reward) < 1000
    with BatchedEnv(episode.task, 2, workers=1) as env:
        assert ref.mismatch(env, 1, episode) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_thousand_steps_and_a_second_reset_are_the_official_ones(name: str) -> None:
    task, official = get_task(name), make_official(get_task(name))
    official.reset(seed=0)
    episodes, steps, seed = [], 0, SEEDS.get(name, 3)
    while steps < task.episode_steps:
        episodes.append(ref.drive(official, task, seed, 1000))
        steps, seed = steps + len(episodes[-1].reward), seed + 1
    met = set().union(*(episode.events for episode in episodes))
    assert met >= MEETS.get(f"{task.kind}{task.level}", set())
    episodes.append(ref.drive(official, task, 11, 60))
    with BatchedEnv(task, 2, workers=2) as env:
        for episode in episodes:
            assert ref.mismatch(env, 1, episode) == ""


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True])
def test_an_episode_does_not_depend_on_what_ran_before(fresh: bool) -> None:
    episode = ref.record(get_task("CarButton1"), seed=5, steps=400, fresh=fresh)
    with BatchedEnv(episode.task, 2, workers=1, fresh=fresh) as env:
        env.reset([1, 2])
        for _ in range(30):
            env.step(np.ones((2, 2)))
        assert ref.mismatch(env, 1, episode) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("robot", "limit"), [("Ant", 0.2), ("HalfCheetah", 0.2), ("Walker2d", -1.0)]
)
def test_the_cost_of_speed_is_the_official_one(robot: str, limit: float, monkeypatch: Any) -> None:
    task, official = get_task(f"{robot}Velocity"), make_official(get_task(f"{robot}Velocity"))
    with BatchedEnv(task, 1, workers=1) as env:
        rules = block_of(env)._official
        # Random actions never reach the true limit of these robots.
        for limited in (official.unwrapped, rules):
            monkeypatch.setattr(limited, "_velocity_threshold", limit)
        episode = ref.drive(official, task, 3, 200)
        assert 0 < episode.cost.sum() < len(episode.cost)
        assert ref.mismatch(env, 0, episode) == ""


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from([name for name in TASKS if "Button" not in name]),
    seed=st.integers(0, 2**32 - 1),
    held=st.integers(1, 15),
    scale=st.floats(0.1, 3.0),
)
def test_random_actions_on_random_tasks_agree(
    name: str, seed: int, held: int, scale: float
) -> None:
    task, official = get_task(name), make_official(get_task(name))
    random = np.random.default_rng(seed)
    official.reset(seed=0)
    obs, _ = official.reset(seed=seed)
    with BatchedEnv(task, 1, workers=1) as env:
        np.testing.assert_array_equal(env.reset([seed])[0], np.float32(obs))
        for t in range(60):
            if t % held == 0:
                action = scale * random.uniform(-1, 1, task.action_size)
            obs, reward, terminated, truncated, info = official.step(action)
            result = env.step(action[None])
            np.testing.assert_allclose(result.obs[0], np.float32(obs), rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(result.reward[0], reward, rtol=1e-6, atol=1e-6)
            assert result.cost[0] == info["cost"]
            assert (result.terminated[0], result.truncated[0]) == (terminated, truncated)
            if terminated or truncated:
                break


def test_episodes_do_not_depend_on_worlds_or_threads() -> None:
    task, runs = get_task("CarButton1"), []
    for worlds, workers in ((1, 1), (3, 2)):
        with BatchedEnv(task, worlds, workers) as env:
            act = ControllerMixture(task, CollectConfig())
            short = _Short(env, 40)
            runs.append(run_episodes(short, act, [4, 5, 6, 7]))
    for alone, together in zip(*runs, strict=True):
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b)


class _Short:
    """Worlds whose time limit comes early."""

    def __init__(self, env: BatchedEnv, limit: int):
        self._env, self._limit = env, limit
        self.task, self.num_envs = env.task, env.num_envs
        self.physics_failures = 0
        self._steps = np.zeros(env.num_envs, int)

    def reset(self, seeds: Any, worlds: Any = None) -> np.ndarray:
        self._steps[list(range(self.num_envs)) if worlds is None else list(worlds)] = 0
        return self._env.reset(seeds, worlds)

    def prepare(self, seeds: Sequence[int]) -> None:
        self.prepared = list(seeds)

    def step(self, actions: np.ndarray) -> Any:
        self._steps += 1
        result = self._env.step(actions)
        return result._replace(truncated=result.truncated | (self._steps >= self._limit))

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(alias * closeness)", "((1 - alias) * closeness)"),
        ("(bins - 1) % BINS", "(bins - 2) % BINS"),
    ],
)
def test_a_wrong_lidar_alias_is_caught(
    goal_episode: ref.Reference, monkeypatch: Any, old: str, new: str
) -> None:
    monkeypatch.setattr(batched_navigation, "lidar", _mutant(lidar, old, new))
    with BatchedEnv(goal_episode.task, 1, workers=1) as env:
        assert "lidar" in ref.mismatch(env, 0, goal_episode)


def test_a_late_cost_is_caught(goal_episode: ref.Reference, monkeypatch: Any) -> None:
    prompt, last = batched_rules.GoalRules.costs, [np.zeros(1, bool)]

    def late(self: Any, touches: Any) -> np.ndarray:
        last.append(prompt(self, touches))
        return last[-2]

    monkeypatch.setattr(batched_rules.GoalRules, "costs", late)
    with BatchedEnv(goal_episode.task, 1, workers=1) as env:
        assert "cost" in ref.mismatch(env, 0, goal_episode)


def test_a_stale_gremlin_is_caught(button_episode: ref.Reference, monkeypatch: Any) -> None:
    def stale(self: Any) -> None:
        before = self.xpos.copy()
        fresh(self)
        gremlins = [self._worlds[0].model.body(f"gremlin{i}obj").id for i in range(4)]
        self.xpos[:, gremlins] = before[:, gremlins]

    fresh = batched_state.State.refresh
    with BatchedEnv(button_episode.task, 1, workers=1) as env:
        env.reset([button_episode.seed])
        monkeypatch.setattr(batched_state.State, "refresh", stale)
        assert "gremlins_lidar" in ref.mismatch(env, 0, button_episode)


def test_gremlins_that_lag_one_step_are_caught(
    button_episode: ref.Reference, monkeypatch: Any
) -> None:
    with BatchedEnv(button_episode.task, 1, workers=1) as env:
        path = block_of(env)._path
        monkeypatch.setattr(block_of(env), "_path", np.concatenate([path[:1], path[:-1]]))
        assert ref.mismatch(env, 0, button_episode) != ""


def test_reward_and_cost_see_the_contacts_of_their_own_forward_pass(monkeypatch: Any) -> None:
    # Between the passes positions are rounded anew, and a grazing contact may
    # show in only one of them.
    with BatchedEnv(get_task("PointButton1"), 1, workers=1) as env:
        env.reset([0])
        rules, world = block_of(env)._rules, block_of(env)._worlds[0]
        right = int(rules.button[0])
        names = ("agent", f"button{right}", f"button{(right + 1) % 4}")
        agent, *buttons = (world.model.geom(name).id for name in names)
        pairs = [(np.array([agent]), np.array([button])) for button in buttons]
        monkeypatch.setattr(batched_physics, "_is_normalized", lambda _: False)
        for order, expected in ((pairs, (True, 1.0, False)), (pairs[::-1], (False, 0.0, True))):
            scripted = list(order)
            monkeypatch.setattr(batched_physics, "_contacts", lambda _, s=scripted: s.pop(0))
            before = rules.last[0]
            result = env.step(np.zeros((1, 2)))
            bonus = result.reward[0] - (before - rules.last[0])
            moved = rules.timer[0] == 10
            assert (bonus > 0.5, result.cost[0], moved) == expected


def block_of(env: BatchedEnv) -> Any:
    """The block of all worlds of an environment with one thread."""
    return env._blocks[0]


def _mutant(function: Any, old: str, new: str) -> Any:
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in the source"
    scope = dict(function.__globals__)
    exec(source.replace(old, new), scope)
    return scope[function.__name__]
