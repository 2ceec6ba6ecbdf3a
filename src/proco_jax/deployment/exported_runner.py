"""Runs an exported policy. It needs this folder, jax and numpy, nothing else.

The folder brings `flatbuffers`, a small pure Python package by which jax reads programs.

policy = Policy("FOLDER"); policy.reset(seed); result = policy.step(observation)
"""

import hashlib
import json
import pathlib
import sys

import jax.export
import numpy as np


class Policy:
    """A policy with its shield, for one episode at a time."""

    def __init__(self, folder="."):
        """Loads the folder; raises ValueError if the program is not the exported one."""
        folder = pathlib.Path(folder)
        self.info = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
        sys.path.append(str(folder / "vendor"))  # Behind what is installed.
        program = (folder / "policy.stablehlo").read_bytes()
        if hashlib.sha256(program).hexdigest() != self.info["sha256"]:
            raise ValueError("policy.stablehlo differs from what was exported; export it again")
        self._call = jax.jit(jax.export.deserialize(bytearray(program)).call)
        self._names = np.array([x["name"] for x in self.info["inputs"]])
        self._logged, self._limits = (
            np.array([[x["low"], x["high"]] for x in self.info[part]]).T
            for part in ("inputs", "actions")
        )
        self.reset()

    def reset(self, seed=0):
        """Begins an episode; the same seed draws the same random numbers."""
        self._memory = [np.array(x["value"], x["type"]) for x in self.info["memory"]]
        self._key = np.array([seed, 0], np.uint32)
        self._last = np.zeros(self._limits.shape[1], np.float32)

    def step(self, observation, reward=0.0, cost=0.0):
        """The action in the system's units, and what to know about it.

        Raises ValueError on an observation of another shape, on numbers that are not finite, and
        if the action is not finite; the episode then stands where it was.
        """
        obs, expected = np.asarray(observation), ", ".join(self._names)
        if obs.shape != self._names.shape or not np.issubdtype(obs.dtype, np.number):
            raise ValueError(f"observation: found {obs.dtype} {obs.shape}, expected {expected}")
        with np.errstate(over="ignore"):
            obs, told = obs.astype(np.float32), np.array([reward, cost], np.float32)
        if not np.isfinite(obs).all():
            raise ValueError(
                f"observation: not finite: {', '.join(self._names[~np.isfinite(obs)])}"
            )
        if not np.isfinite(told).all():
            raise ValueError(f"reward and cost: found {reward} and {cost}, expected finite numbers")
        action, intervened, unknown, memory = self._call(
            self._memory, obs, self._key, self._last, *told
        )
        if not np.isfinite(action).all():
            raise ValueError(f"observation: the networks' numbers overflow, found {obs.tolist()}")
        self._last, self._memory = np.asarray(action), memory
        self._key = self._key + np.array([0, 1], np.uint32)
        outside = (obs < self._logged[0]) | (obs > self._logged[1])
        least, most = self._limits
        return {
            "action": least + (self._last + 1.0) / 2.0 * (most - least),
            "intervened": bool(intervened),  # Whether the action is not the policy's own.
            "unknown": bool(unknown),  # Whether the model's networks disagree about what follows.
            "outside": self._names[outside].tolist(),  # What was never logged that low or high.
        }
