"""The first phase of a training of a navigation task: many steps in the planar model."""

from typing import Any

import jax
import jax.numpy as jnp

from proco_jax.behaviors import planar
from proco_jax.behaviors.planar import Judged, Plan, Rules, Worlds
from proco_jax.behaviors.planar_robot import PlanarRobot
from proco_jax.behaviors.ppo import (
    Learner,
    Metrics,
    PPOSettings,
    Rollout,
    sample_actions,
    update,
)
from proco_jax.envs.behavior_inputs import policy_inputs, price_input, prices_of, reward_unit

UPDATES_A_ROUND = 8


class PlanarPhase:
    """Rounds of updates with steps of the planar model, compiled as a whole.

    Args:
      settings: of the learner.
      rules: of the task.
      plan: its layouts.
      robot: its motion.
      rounds: number of rounds, of `UPDATES_A_ROUND` updates each.
      worlds: W, stepped together.
      rollout: decisions between two updates.
    """

    name = "in the planar model"

    def __init__(
        self,
        settings: PPOSettings,
        rules: Rules,
        plan: Plan,
        robot: PlanarRobot,
        rounds: int,
        worlds: int,
        rollout: int,
    ) -> None:
        self.rounds = rounds
        self._data = (plan, robot)
        self._settings, self._rules = settings, rules
        self._count, self._steps = worlds, rollout
        self._prices = prices_of(rules.task)
        self._run = jax.jit(self._round)

    def run(self, number: int, key: jax.Array, learner: Learner) -> tuple[Learner, Metrics]:
        """A round in worlds that begin anew, at different times of their episodes."""
        return self._run(key, learner, *self._data)

    def _round(
        self, key: jax.Array, learner: Learner, plan: Plan, robot: PlanarRobot
    ) -> tuple[Learner, Metrics]:
        begin, own = jax.random.split(key)
        one, two = jax.random.split(begin)
        worlds = planar.start(one, self._rules, plan, self._prices, self._count)
        limit = self._rules.task.episode_steps
        repeat = self._settings.repeat
        begun = jax.random.randint(two, (self._count,), 0, limit // repeat) * repeat
        worlds = worlds._replace(step=begun)

        def one_update(carry: tuple[Learner, Worlds], key: jax.Array) -> Any:
            learner, worlds = carry
            acting, learning = jax.random.split(key)
            worlds, rows, metrics = self._rollout(acting, learner, worlds, plan, robot)
            learner, found = update(learning, self._settings, learner, rows)
            return (learner, worlds), {**metrics, **found}

        keys = jax.random.split(own, UPDATES_A_ROUND)
        (learner, _), metrics = jax.lax.scan(one_update, (learner, worlds), keys)
        return learner, jax.tree.map(jnp.mean, metrics)

    def _hold(
        self, key: jax.Array, worlds: Worlds, action: jax.Array, plan: Plan, robot: PlanarRobot
    ) -> tuple[Worlds, Judged]:
        """As many steps by the same action as a decision lasts; rewards and costs are sums."""

        def one_step(worlds: Worlds, key: jax.Array) -> tuple[Worlds, Judged]:
            return planar.step(key, self._rules, plan, robot, worlds, action)

        keys = jax.random.split(key, self._settings.repeat)
        worlds, judged = jax.lax.scan(one_step, worlds, keys)
        reward, cost = jnp.sum(judged.reward, axis=0), jnp.sum(judged.cost, axis=0)
        return worlds, Judged(reward, cost, judged.ended[-1])

    def _rollout(
        self, key: jax.Array, learner: Learner, worlds: Worlds, plan: Plan, robot: PlanarRobot
    ) -> tuple[Worlds, Rollout, Metrics]:
        rules, prices, unit = self._rules, self._prices, reward_unit(self._rules.task)

        def inputs_of(worlds: Worlds) -> jax.Array:
            return policy_inputs(rules.task, planar.observe(rules, worlds), jnp)

        def one_step(carry: tuple[Worlds, jax.Array], key: jax.Array) -> Any:
            worlds, inputs = carry
            acting, moving, starting = jax.random.split(key, 3)
            shown = price_input(prices, worlds.price, jnp)
            action = sample_actions(learner, inputs, shown, acting)
            moved, judged = self._hold(moving, worlds, action, plan, robot)
            after = inputs_of(moved)
            row = Rollout(
                inputs,
                after,
                worlds.price,
                shown,
                action,
                judged.reward / unit,
                judged.cost,
                jnp.zeros(self._count, bool),
                judged.ended,
            )

            def begin_again(moved: Worlds) -> Worlds:
                fresh = planar.start(starting, rules, plan, prices, self._count)

                def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
                    mask = judged.ended.reshape(-1, *(1,) * (old.ndim - 1))
                    return jnp.where(mask, new, old)

                return jax.tree.map(chosen, fresh, moved)

            again = jax.lax.cond(judged.ended.any(), begin_again, lambda moved: moved, moved)
            inputs = jnp.where(judged.ended[:, None], inputs_of(again), after)
            return (again, inputs), row

        keys = jax.random.split(key, self._steps)
        (worlds, _), rows = jax.lax.scan(one_step, (worlds, inputs_of(worlds)), keys)
        metrics: Metrics = {}
        thirds = jnp.quantile(rows.price, jnp.array([1 / 3, 2 / 3]))
        limit = rules.task.episode_steps / self._settings.repeat
        for name, own in (
            ("reckless", rows.price <= thirds[0]),
            ("cautious", rows.price >= thirds[1]),
        ):
            metrics[f"{name}/return"] = jnp.mean(rows.reward, where=own) * unit * limit
            metrics[f"{name}/cost"] = jnp.mean(rows.cost, where=own) * limit
        return worlds, rows, metrics
