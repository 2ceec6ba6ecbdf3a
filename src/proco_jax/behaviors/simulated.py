"""Rollouts of a learner in the batched simulator."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.behaviors.ppo import (
    Learner,
    Metrics,
    PPOSettings,
    Rollout,
    sample_actions,
    update,
)
from proco_jax.envs.behavior_inputs import (
    Prices,
    drawn_price,
    policy_inputs,
    price_input,
    reward_unit,
)
from proco_jax.envs.tasks import Task
from proco_jax.envs.vector import VectorEnv

_sample = jax.jit(sample_actions)


class Ended(NamedTuple):
    """An episode that ended in the course of training.

    Attributes:
      price: of a violation.
      reward: its return, raw.
      cost: its cost.
      steps: its length.
    """

    price: float
    reward: float
    cost: float
    steps: int


class SimulatorPhase:
    """A phase of a training in the simulator: rounds of as many steps as an episode has.

    Args:
      worlds: in which the learner acts.
      settings: of the learner.
      rounds: number of rounds.
      rollout: decisions between two updates; with the steps of each, a divisor of the time limit.
    """

    name = "in the simulator"

    def __init__(
        self, worlds: "SimulatedWorlds", settings: PPOSettings, rounds: int, rollout: int
    ) -> None:
        self.rounds = rounds
        self._worlds, self._rollout = worlds, rollout
        self._updates = worlds.task.episode_steps // (rollout * settings.repeat)
        self._update = jax.jit(lambda key, learner, rows: update(key, settings, learner, rows))

    def run(self, number: int, key: jax.Array, learner: Learner) -> tuple[Learner, Metrics]:
        """A round: its episodes begin anew."""
        self._worlds.begin(number)
        episodes: list[Ended] = []
        metrics: Metrics = {}
        for own in jax.random.split(key, self._updates):
            acting, learning = jax.random.split(own)
            rows, ended = self._worlds.rollout(learner, acting, self._rollout)
            learner, metrics = self._update(learning, learner, rows)
            episodes += ended
        return learner, {**summary(episodes, self._worlds.task.episode_steps), **metrics}


def summary(episodes: list[Ended], limit: int) -> Metrics:
    """Mean return and cost of the cheapest and the dearest third of the prices, in rates.

    Episodes that were cut off count by their steps.
    """
    if not episodes:
        return {}
    price, reward, cost, steps = np.array(episodes, np.float64).T
    low, high = np.quantile(price, [1 / 3, 2 / 3])
    found = {}
    for name, own in (("reckless", price <= low), ("cautious", price >= high)):
        share = limit / max(float(np.sum(steps[own])), 1.0)
        found[f"{name}/return"] = jnp.float32(np.sum(reward[own]) * share)
        found[f"{name}/cost"] = jnp.float32(np.sum(cost[own]) * share)
    found["length"] = jnp.float32(np.mean(steps))
    return found


class SimulatedWorlds:
    """Simulated worlds in which a learner acts, in rounds that each begin anew.

    A round depends on its number and the learner only, so a training resumes exactly between
    rounds. World i of N cuts its first episode off after i / N of the time limit, so that the
    worlds are at different times of their episodes.

    Args:
      env: the worlds.
      prices: of a violation, drawn for every episode.
      seed: of the training.
      repeat: steps for which an action is held.
    """

    def __init__(self, env: VectorEnv, prices: Prices, seed: int, repeat: int = 1) -> None:
        self._env, self._prices, self._seed, self._repeat = env, prices, seed, repeat
        self._unit = reward_unit(env.task)

    @property
    def task(self) -> Task:
        """The task of the worlds."""
        return self._env.task

    def begin(self, number: int) -> None:
        """Begins a round."""
        env, count = self._env, self._env.num_envs
        self._random = np.random.default_rng([self._seed, 7, number])
        self._obs = np.zeros((count, env.task.spec.size), np.float32)
        self._price = np.zeros(count, np.float32)
        # Whole decisions, and at least one.
        decisions = np.ceil(np.arange(1, count + 1) / count * env.task.episode_steps / self._repeat)
        self._left = decisions.astype(int) * self._repeat
        self._sums = np.zeros((3, count))
        self._start(np.arange(count))

    def rollout(self, learner: Learner, key: jax.Array, steps: int) -> tuple[Rollout, list[Ended]]:
        """Further steps of the round by the learner's policy, `[T, N, ...]`."""
        unit = self._unit
        rows: list[Rollout] = []
        episodes: list[Ended] = []
        inputs = self._inputs()
        for one in jax.random.split(key, steps):
            shown = price_input(self._prices, self._price).astype(np.float32)
            action = np.asarray(_sample(learner, inputs, shown, one))
            reward, cost, terminated, ended = self._hold(np.clip(action, -1.0, 1.0))
            after = self._inputs()
            rows.append(
                Rollout(
                    inputs,
                    after,
                    self._price.copy(),
                    shown,
                    action,
                    (reward / unit).astype(np.float32),
                    cost,
                    terminated,
                    ended,
                )
            )
            if ended.any():
                worlds = np.flatnonzero(ended)
                for world in worlds:
                    total, violations, length = map(float, self._sums[:, world])
                    price = float(self._price[world])
                    episodes.append(Ended(price, total, violations, int(length)))
                self._start(worlds)
                after = self._inputs()
            inputs = after
        return Rollout(*(np.stack(column) for column in zip(*rows, strict=True))), episodes

    def _hold(self, action: np.ndarray) -> tuple[np.ndarray, ...]:
        """Steps by the same actions: sums of rewards and costs `[N]`, who terminated, who ended."""
        count = self._env.num_envs
        reward, cost = np.zeros((2, count), np.float32)
        terminated, ended = np.zeros((2, count), bool)
        for _ in range(self._repeat):
            running = ~ended
            result = self._env.step(action)
            reward += result.reward * running
            cost += result.cost * running
            self._obs = np.where(running[:, None], result.obs, self._obs)
            terminated |= result.terminated & running
            ended |= result.terminated | result.truncated
            self._left -= 1
            self._sums += np.stack([result.reward, result.cost, np.ones(count)]) * running
        return reward, cost, terminated, ended | (self._left <= 0)

    def _start(self, worlds: np.ndarray) -> None:
        """Starts episodes with new seeds and prices."""
        seeds = self._random.integers(0, 2**31 - 1, len(worlds)).tolist()
        if len(set(seeds)) < len(seeds):
            seeds = [(seed + k) % 2**31 for k, seed in enumerate(seeds)]
        share, free = self._random.random((2, len(worlds)))
        self._price[worlds] = drawn_price(self._prices, share, free)
        self._obs[worlds] = self._env.reset(seeds, worlds.tolist())
        begun = self._sums[2, worlds] > 0
        self._left[worlds] = np.where(begun, self.task.episode_steps, self._left[worlds])
        self._sums[:, worlds] = 0.0

    def _inputs(self) -> np.ndarray:
        return np.asarray(policy_inputs(self.task, self._obs), np.float32)
