"""A block of navigation worlds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from proco_jax.envs.batched.block import BlockStep, Snapshot, rows_of
from proco_jax.envs.batched.layout_cache import Layouts
from proco_jax.envs.batched.lidar import lidar, rotation_matrices
from proco_jax.envs.batched.physics import (
    advance,
    advance_gremlins,
    gremlin_path,
    physics_of,
    put_physics,
    settle,
    solve_again,
)
from proco_jax.envs.batched.rules import make_rules
from proco_jax.envs.batched.state import State
from proco_jax.envs.batched.worlds import Blueprint, World, blueprint, place
from proco_jax.envs.tasks import Task

# Forward passes that the official environment makes in any reset but its first,
# which has one fewer, and those more that it makes when a goal moves.
_PASSES_AT_START = {"Goal": 5, "Button": 5, "Push": 5, "Circle": 4}
_PASSES_OF_A_NEW_GOAL = 2


class NavigationBlock:
    """N worlds of a navigation task.

    Attributes:
      obs: `[N, O]` float64, the last observations.
    """

    def __init__(self, task: Task, count: int, layouts: Layouts, fresh: bool = False):
        """Builds N worlds that take their layouts from there; `fresh` as in `BatchedEnv`."""
        self._layouts = layouts
        self._passes = _PASSES_AT_START[task.kind] - int(fresh)
        self._plan = blueprint(task)
        self._worlds = [World(self._plan) for _ in range(count)]
        self._state = State(self._plan, self._worlds)
        self._rules = make_rules(self._plan, self._state)
        for world in self._worlds:
            world.watched = self._rules.needs_touches
        self._observer = Observer(self._plan, self._state)
        self._warnings = [world.warnings for world in self._worlds]
        self._seeds = np.full(count, -1, dtype=np.int64)
        self._steps = np.zeros(count, dtype=np.intp)
        self._drawn = np.zeros(count, dtype=np.intp)
        self._clip = self._plan.rules.reward_conf.reward_clip
        self._limits = self._plan.model.actuator_ctrlrange.T.copy()
        self._path = None
        if task.kind == "Button":
            gremlins = self._plan.rules.gremlins
            timestep = self._plan.model.opt.timestep
            self._path = gremlin_path(timestep, task.episode_steps, gremlins.travel, gremlins.size)
        self.obs = np.zeros((count, task.spec.size))

    def place(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Builds the worlds of these seeds in the given rows."""
        plan = self._plan
        for row, seed in zip(rows, seeds, strict=True):
            world, drawn = self._worlds[row], self._layouts.take(seed)
            world.random.set_state(drawn.random)
            place(world.model, world.data, plan, drawn.layout, drawn.rotations)
            settle(world, self._passes)
            self._state.layout[row] = list(drawn.layout.values())
            self._seeds[row] = seed

    def start(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Starts the episodes of worlds that were just placed.

        Raises:
          RuntimeError: if an episode cannot start, naming its seed.
        """
        name = self._plan.task.name
        self._steps[rows] = 0
        self._drawn[rows] = 0
        self._state.refresh()
        self._state.refresh_sensors()
        for row, seed in zip(rows, seeds, strict=True):
            if not self._rules.start(row, self._worlds[row]):
                raise RuntimeError(f"{name}, seed {seed}: no room for the goal")
        touches = self._state.touches(rows, of_cost=True) if self._rules.needs_touches else None
        dear = self._rules.costs(touches)[rows]
        if dear.any():
            seed = seeds[int(dear.argmax())]
            raise RuntimeError(f"{name}, seed {seed}: the episode starts with a cost")
        self.obs[rows] = self._observer.observe(self._rules.goal, self._rules.hidden)[rows]

    def save(self, row: int) -> Snapshot:
        """A snapshot of a world, from which `load` continues."""
        world = self._worlds[row]
        return Snapshot(
            seed=int(self._seeds[row]),
            step=int(self._steps[row]),
            obs=self.obs[row].copy(),
            physics=physics_of(world),
            random=world.random.get_state(),
            rows={name: getattr(owner, name)[row].copy() for name, owner in self._kept()},
        )

    def load(self, rows: Sequence[int], snapshots: Sequence[Snapshot]) -> None:
        """Restores snapshots in the given rows; a layout that is in place already is kept."""
        for row, saved in zip(rows, snapshots, strict=True):
            if self._seeds[row] != saved.seed:
                self.place([row], [saved.seed])
            world = self._worlds[row]
            put_physics(world, saved.physics)
            world.random.set_state(saved.random)
            for name, owner in self._kept():
                getattr(owner, name)[row] = saved.rows[name]
            self._steps[row] = saved.step
            self.obs[row] = saved.obs

    def _kept(self) -> list[tuple[str, Any]]:
        """Names and owners of the arrays that a step reads before it writes them."""
        rules = [(name, self._rules) for name in self._rules.kept]
        return [("layout", self._state), ("_drawn", self), *rules]

    def move(self, rows: Sequence[int], actions: np.ndarray) -> None:
        """Steps the physics of the given rows by their `[len(rows), A]` actions."""
        controls = np.clip(actions, self._limits[0], self._limits[1])
        worlds, path = self._worlds, self._path
        if path is None:
            for row, control in zip(rows, controls, strict=True):
                advance(worlds[row], control)
        else:
            for row, control in zip(rows, controls, strict=True):
                advance_gremlins(worlds[row], control, path[self._steps[row]])

    def judge(self, actions: np.ndarray, active: np.ndarray) -> BlockStep:
        """Rewards, costs, new goals and observations of the rows that were moved."""
        rows, state, rules = rows_of(active), self._state, self._rules
        state.refresh()
        first = second = None
        if rules.needs_touches:
            first, second = state.touches(rows, of_cost=False), state.touches(rows, of_cost=True)
        reward, cost = rules.rewards(first), rules.costs(second)
        rules.tick()
        reached = rules.reached(second)
        self._steps[rows] += 1
        terminated = np.zeros(len(active), dtype=bool)
        for row in rows_of(reached & active):
            terminated[row] = not self._new_goal(row)
        state.refresh_sensors()
        obs = self._observer.observe(rules.goal, rules.hidden)
        failed = active & (self._warned() | ~np.isfinite(obs).all(axis=1))
        seen = active & ~failed
        self.obs[seen] = obs[seen]
        return BlockStep(np.clip(reward, -self._clip, self._clip), cost, terminated, failed)

    def _new_goal(self, row: int) -> bool:
        """Draws a new goal after the draws that the official steps made meanwhile."""
        world = self._worlds[row]
        world.random.random_sample(self._steps[row] - self._drawn[row])
        self._drawn[row] = self._steps[row]
        found = self._rules.new_goal(row, world)
        solve_again(world, _PASSES_OF_A_NEW_GOAL if found else 1)
        return found

    def _warned(self) -> np.ndarray:
        """`[N]` bool: worlds in which MuJoCo warned since their reset."""
        counts = np.concatenate(self._warnings).reshape(len(self._worlds), -1)
        return np.asarray(counts.any(axis=1))


class Observer:
    """Computes observations from the state: sensors, then lidars."""

    def __init__(self, plan: Blueprint, state: State):
        self._state = state
        fields, columns = plan.task.spec.fields, plan.task.spec.slices
        self._copied = [
            (columns[name], slice(at, at + size))
            for name, at, size in plan.sensors
            if not name.startswith("ballquat")
        ]
        self._turned = [
            (columns[name], slice(at, at + size))
            for name, at, size in plan.sensors
            if name.startswith("ballquat")
        ]
        self._reach = plan.rules.lidar_conf.max_dist
        rings = [field.name.removesuffix("_lidar") for field in fields if field.kind == "ring"]
        self._first_ring = min(columns[f"{ring}_lidar"].start for ring in rings)
        self._buttons = columns.get("buttons_lidar")
        self._rings = len(rings)
        self._seen = np.array([ring for ring, _ in _seen(plan, rings)], dtype=np.intp)
        sources = [source for _, source in _seen(plan, rings)]
        self._goal = [k for k, (kind, _) in enumerate(sources) if kind == "goal"]
        self._fixed = [k for k, (kind, _) in enumerate(sources) if kind == "layout"]
        self._fixed_at = [at for kind, at in sources if kind == "layout"]
        self._moving = [k for k, (kind, _) in enumerate(sources) if kind == "body"]
        self._bodies = [at for kind, at in sources if kind == "body"]
        self._positions = np.zeros((state.count, len(sources), 2))
        self._obs = np.zeros((state.count, plan.task.spec.size))

    def observe(self, goal: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
        """`[N, O]` observations of the current state, in an array that is used again.

        Args:
          goal: `[N, 2]` positions of the goals.
          hidden: `[N]` bool, worlds whose buttons are not visible.
        """
        state, positions, obs = self._state, self._positions, self._obs
        for columns, numbers in self._copied:
            obs[:, columns] = state.sensors[:, numbers]
        for columns, numbers in self._turned:
            obs[:, columns] = rotation_matrices(state.sensors[:, numbers])
        positions[:, self._goal] = goal[:, None]
        positions[:, self._fixed] = state.layout[:, self._fixed_at]
        positions[:, self._moving] = state.xpos[:, self._bodies, :2]
        # A world with unstable physics may hold NaN; `judge` reports it.
        with np.errstate(invalid="ignore"):
            obs[:, self._first_ring :] = lidar(
                positions, self._seen, self._rings, state.agent, state.frame, self._reach
            )
        if hidden is not None:
            obs[hidden, self._buttons] = 0
        return obs


def _seen(plan: Blueprint, rings: Sequence[str]) -> list[tuple[int, tuple[str, int]]]:
    """Ring and source of the position of each object that a lidar shows."""
    bodies = {plan.model.body(i).name: i for i in range(plan.model.nbody)}
    names = [placement.name for placement in plan.placements]
    seen = []
    for ring, kind in enumerate(rings):
        if kind in ("goal", "circle"):
            # The circle's center is the origin, where its unused goal stays.
            seen.append((ring, ("goal", 0)))
            continue
        single = kind if kind in names else None
        for name in [single] if single else [n for n in names if n.startswith(kind[:-1])]:
            body = bodies.get(f"{name}obj", bodies.get(name))
            moves = body is not None and plan.model.body_dofnum[body] > 0
            seen.append((ring, ("body", body) if moves else ("layout", names.index(name))))
    return seen
