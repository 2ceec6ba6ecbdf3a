"""Bare MuJoCo: the official worlds, stepped, and nothing else. The wall of the benchmark."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's names come from a C extension, which a type checker cannot read.

import copy
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np

from proco_jax.envs.batched.layout import sample_layout
from proco_jax.envs.batched.physics import SUBSTEPS, gremlin_path
from proco_jax.envs.batched.velocity import rules_of, start
from proco_jax.envs.batched.worlds import blueprint, place, without_textures
from proco_jax.envs.tasks import Task


class BareWorlds:
    """N worlds with the official models, whole but for their textures.

    A step is `mj_step` with the official number of substeps. Gremlins are moved
    before each substep, as the physics would be another without it.
    """

    def __init__(self, task: Task, num_envs: int, workers: int):
        self._task = task
        bounds = np.linspace(0, num_envs, workers + 1).astype(int)
        self._spans = [range(a, b) for a, b in itertools.pairwise(bounds)]
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None
        if task.kind == "Velocity":
            rules = rules_of(task)
            self._models = [rules.model] * num_envs
            self._substeps = rules.frame_skip
        else:
            xml = without_textures(blueprint(task).xml)
            model = mujoco.MjModel.from_xml_string(xml)
            self._models = [copy.copy(model) for _ in range(num_envs)]
            self._substeps = SUBSTEPS
        self._data = [mujoco.MjData(model) for model in self._models]
        self._mocap = [data.mocap_pos for data in self._data]
        self._ctrl = [data.ctrl for data in self._data]
        self._steps = np.zeros(num_envs, dtype=int)
        self._path = _path(task, self._models[0]) if task.kind == "Button" else None

    def reset(self, seeds: Sequence[int], worlds: Sequence[int]) -> None:
        """Puts worlds at the start of the episodes of these seeds."""
        for seed, world in zip(seeds, worlds, strict=True):
            model, data = self._models[world], self._data[world]
            if self._task.kind == "Velocity":
                start(self._task, model, data, seed)
            else:
                plan, random = blueprint(self._task), np.random.RandomState(seed)
                layout = sample_layout(random, plan.placements)
                place(model, data, plan, layout, random.uniform(0, 2 * np.pi, len(plan.rotated)))
                mujoco.mj_forward(model, data)
            self._steps[world] = 0

    def step(self, actions: np.ndarray) -> None:
        """Steps all worlds by `[N, A]` actions."""
        if self._pool is None:
            self._step(self._spans[0], actions)
        else:
            list(self._pool.map(self._step, self._spans, itertools.repeat(actions)))
        self._steps += 1

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _step(self, worlds: range, actions: np.ndarray) -> None:
        for world in worlds:
            model, data = self._models[world], self._data[world]
            self._ctrl[world][:] = actions[world]
            if self._path is None:
                mujoco.mj_step(model, data, self._substeps)
            else:
                for position in self._path[self._steps[world]]:
                    self._mocap[world][:] = position
                    mujoco.mj_step(model, data)


def _path(task: Task, model: Any) -> np.ndarray:
    gremlins = blueprint(task).rules.gremlins
    return gremlin_path(model.opt.timestep, task.episode_steps, gremlins.travel, gremlins.size)
