"""A block of worlds of a velocity task: run, but not faster than the limit."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's names come from a C extension, which a type checker cannot read.

import functools
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from proco_jax.envs.batched.block import BlockStep, Snapshot
from proco_jax.envs.simulator import make_official
from proco_jax.envs.tasks import Task

_UNSEEN = {"Ant": 2, "HalfCheetah": 1, "Hopper": 1, "Swimmer": 2, "Walker2d": 1}
_SPEED_LIMIT_SEEN = 10.0  # Hopper and Walker2d clip the velocities that they show.
_NORMAL_VELOCITIES = ("Ant", "HalfCheetah")  # at the start; the others draw them uniformly


class VelocityBlock:
    """N worlds of a velocity task, around one MuJoCo model.

    Attributes:
      obs: `[N, O]` float64, the last observations.
    """

    def __init__(self, task: Task, count: int):
        """Builds N worlds around one model."""
        official = rules_of(task)
        self._task, self._robot, self._official = task, task.robot, official
        self._model = official.model
        self._data = [mujoco.MjData(self._model) for _ in range(count)]
        self._warnings = [data.warning.number for data in self._data]
        self._qpos = np.zeros((count, self._model.nq))
        self._qvel = np.zeros((count, self._model.nv))
        self._where = np.zeros((count, 2))
        torso = self._model.body("torso").id
        # The Ant is where its torso's pose was last computed, one substep ago.
        self._places = [
            data.xpos[torso, :2] if task.robot == "Ant" else data.qpos[:2] for data in self._data
        ]
        self.obs = np.zeros((count, task.spec.size))

    def place(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Puts the robots of these seeds into the given rows."""
        for row, seed in zip(rows, seeds, strict=True):
            start(self._task, self._model, self._data[row], seed)

    def start(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Starts the episodes of robots that were just placed."""
        self._refresh()
        self.obs[rows] = self._look()[rows]

    def save(self, row: int) -> Snapshot:
        """Not implemented: no part of the package needs snapshots of velocity tasks."""
        raise NotImplementedError(f"worlds of {self._task.name} cannot be saved; navigation can")

    def load(self, rows: Sequence[int], snapshots: Sequence[Snapshot]) -> None:
        """Not implemented, as `save`."""
        raise NotImplementedError(f"worlds of {self._task.name} cannot be loaded; navigation can")

    def move(self, rows: Sequence[int], actions: np.ndarray) -> None:
        """Steps the physics of the given rows by their `[len(rows), A]` actions."""
        for row, action in zip(rows, actions, strict=True):
            data = self._data[row]
            data.ctrl[:] = action
            mujoco.mj_step(self._model, data, self._official.frame_skip)

    def judge(self, actions: np.ndarray, active: np.ndarray) -> BlockStep:
        """Rewards, costs and observations of the rows that were moved."""
        rules = self._official
        before = self._where.copy()
        self._refresh()
        velocity = (self._where - before) / rules.dt
        # Summed in the type of the actions, as the official step does.
        effort = rules._ctrl_cost_weight * np.sum(np.square(actions), axis=1)
        reward = getattr(rules, "_forward_reward_weight", 1.0) * velocity[:, 0]
        reward = reward + getattr(rules, "_healthy_reward", 0.0) - effort
        if self._robot == "Ant":
            speed = np.sqrt(velocity[:, 0] ** 2 + velocity[:, 1] ** 2)
        else:
            speed = velocity[:, 0]
        obs = self._look()
        warned = np.concatenate(self._warnings).reshape(len(obs), -1).any(axis=1)
        failed = active & (warned | ~np.isfinite(obs).all(axis=1))
        seen = active & ~failed
        self.obs[seen] = obs[seen]
        return BlockStep(reward, speed > rules._velocity_threshold, ~self._healthy(), failed)

    def _refresh(self) -> None:
        np.stack([data.qpos for data in self._data], out=self._qpos)
        np.stack([data.qvel for data in self._data], out=self._qvel)
        np.stack(self._places, out=self._where)

    def _look(self) -> np.ndarray:
        velocity = self._qvel
        if self._robot in ("Hopper", "Walker2d"):
            velocity = np.clip(velocity, -_SPEED_LIMIT_SEEN, _SPEED_LIMIT_SEEN)
        return np.concatenate([self._qpos[:, _UNSEEN[self._robot] :], velocity], axis=1)

    def _healthy(self) -> np.ndarray:
        """`[N]` bool: whether the robot is healthy by the criteria of its task."""
        rules, robot, qpos = self._official, self._robot, self._qpos
        if robot in ("HalfCheetah", "Swimmer"):
            return np.ones(len(qpos), dtype=bool)
        low, high = rules._healthy_z_range
        if robot == "Ant":
            return (low <= qpos[:, 2]) & (qpos[:, 2] <= high)
        angle_low, angle_high = rules._healthy_angle_range
        upright = (angle_low < qpos[:, 2]) & (qpos[:, 2] < angle_high)
        healthy = (low < qpos[:, 1]) & (qpos[:, 1] < high) & upright
        if robot == "Hopper":
            state_low, state_high = rules._healthy_state_range
            state = np.concatenate([qpos[:, 2:], self._qvel], axis=1)
            healthy &= ((state_low < state) & (state < state_high)).all(axis=1)
        return healthy


def start(task: Task, model: Any, data: Any, seed: int) -> None:
    """Puts a robot at the start of the episode of a seed."""
    rules, random = rules_of(task), np.random.default_rng(seed)
    scale = rules._reset_noise_scale
    mujoco.mj_resetData(model, data)
    data.qpos[:] = rules.init_qpos + random.uniform(-scale, scale, model.nq)
    if task.robot in _NORMAL_VELOCITIES:
        noise = scale * random.standard_normal(model.nv)
    else:
        noise = random.uniform(-scale, scale, model.nv)
    data.qvel[:] = rules.init_qvel + noise
    mujoco.mj_forward(model, data)


@functools.cache
def rules_of(task: Task) -> Any:
    """The official environment, read for its model and its constants only."""
    mujoco.set_mju_user_warning(lambda message: None)
    return make_official(task).unwrapped
