"""Hostile calls of a deployed policy: observations, keys, memory, and the arguments of loading."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fault_kills import POLICY
from benchmarks.fault_outcomes import Fault, Found, Outcome
from proco_jax.deployment.policy import LoadedPolicy, load_policy


class HostileCalls:
    """Calls a policy as nobody should.

    Args:
      run: folder of a finished run with the policy `POLICY`.
      obs: `[O]` a good observation.
    """

    def __init__(self, run: Path, obs: np.ndarray) -> None:
        self._run, self._obs = run, np.asarray(obs, np.float32)
        self._policy = load_policy(run, *POLICY)
        self._key = jax.random.key(7)

    def fault(self, rng: np.random.Generator) -> Fault:
        """One call: what is given, the check, and what an error must name."""
        if rng.random() < 0.08:
            return self._loading(rng)
        good = {
            "obs": self._obs,
            "key": self._key,
            "last_action": None,
            "reward": 0.0,
            "cost": 0.0,
        }
        name = str(rng.choice(["obs", "obs", "obs", "key", "last_action", "reward", "cost"]))
        options = {
            "obs": _observations(self._obs, rng),
            "key": _keys(),
            "last_action": _actions(self._policy.task.action_size),
            "reward": _numbers(),
            "cost": _numbers(),
        }[name]
        words = str(rng.choice(sorted(options)))
        value = options[words]
        given = good | {name: value}

        def check() -> Found:
            action = self._act(self._policy, given)
            if not (
                action.shape == (self._policy.task.action_size,)
                and np.isfinite(action).all()
                and (np.abs(action) <= 1).all()
            ):
                return Outcome.SILENT, f"the action {action}"
            # The same call in the plainest form that it can mean.
            plain = good | {name: _plain(name, value)}
            same = np.array_equal(action, self._act(self._policy, plain))
            return (Outcome.HARMLESS, "") if same else (Outcome.SILENT, "another action")

        return f"{name}: {words}", check, (_SHOWN[name],)

    def _act(self, policy: LoadedPolicy, given: dict[str, Any]) -> np.ndarray:
        return np.asarray(policy.act(policy.initial_carry(), **given)[0])

    def _loading(self, rng: np.random.Generator) -> Fault:
        options: dict[str, dict[str, Any]] = {
            "seed True": {"seed": True},
            "seed -1": {"seed": -1},
            "seed 10**30": {"seed": 10**30},
            "seed text": {"seed": "0"},
            "seed 0.5": {"seed": 0.5},
            "seed None": {"seed": None},
            "shield unknown": {"shield": "wall"},
            "shield number": {"shield": 3},
            "algorithm unknown": {"algorithm": "cql"},
            "algorithm of another folder": {"algorithm": "../../store"},
            "algorithm with a zero byte": {"algorithm": "b\0c"},
            "algorithm None": {"algorithm": None},
            "augmentation unknown": {"augmentation": "none"},
            "no workdir": {"workdir": "/nowhere"},
            "workdir a file": {"workdir": self._run / "config.json"},
        }
        words = str(rng.choice(sorted(options)))
        good = {"workdir": self._run, "algorithm": POLICY[0], "augmentation": POLICY[1]}
        given = good | options[words]

        def check() -> Found:
            load_policy(**given)
            return Outcome.SILENT, "loaded"

        return f"load_policy: {words}", check, ("seed", "shield", "policies", "algorithm")


_SHOWN = {
    "obs": "observation",
    "key": "key",
    "last_action": "last_action",
    "reward": "reward",
    "cost": "cost",
}


def _observations(obs: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    at = int(rng.integers(len(obs)))

    def spoiled(value: Any, kind: Any = np.float32) -> np.ndarray:
        changed = obs.astype(kind)
        changed[at] = value
        return changed

    return {
        "NaN": spoiled(np.nan),
        "infinite": spoiled(-np.inf),
        "beyond float32": spoiled(1e39, np.float64),
        "all NaN": np.full_like(obs, np.nan),
        "shape (1,)": obs[:1],
        "one number less": obs[:-1],
        "one number more": np.append(obs, 0.0),
        "a batch": obs[None],
        "a column": obs[:, None],
        "a scalar": 0.0,
        "empty": np.zeros(0),
        "None": None,
        "text": "observation",
        "texts": np.array([str(x) for x in obs]),
        "bytes": obs.tobytes(),
        "a dict": {"obs": obs},
        "ragged": [[0.0], [0.0, 1.0]],
        "objects": obs.astype(object),
        "objects that are none": np.array([None] * len(obs), object),
        "complex": obs.astype(np.complex64),
        "booleans": obs > 0,
        "dates": np.zeros(len(obs), "datetime64[s]"),
        "float16": obs.astype(np.float16),
        "float64": obs.astype(np.float64),
        "integers": np.round(obs).astype(np.int64),
        "unsigned bytes": np.zeros(len(obs), np.uint8),
        "big-endian": obs.astype(">f4"),
        "a list": obs.tolist(),
        "a strided view": np.repeat(obs, 2)[::2],
        "a JAX array": jnp.asarray(obs),
        "bfloat16": jnp.asarray(obs, jnp.bfloat16),
        "a masked array": np.ma.masked_array(obs, np.arange(len(obs)) == at),
        "a JAX array with NaN": jnp.asarray(spoiled(np.nan)),
        "subnormal": spoiled(1e-42),
        "largest float32": spoiled(3.4e38),
    }


def _keys() -> dict[str, Any]:
    return {
        "None": None,
        "a number": 3,
        "NaN": np.nan,
        "a raw key": jax.random.PRNGKey(7),
        "a raw NumPy key": np.asarray(jax.random.PRNGKey(7)),
        "integers": np.array([0, 7]),
        "floats": np.array([0.0, 7.0]),
        "two keys": jax.random.split(jax.random.key(7)),
        "raw keys": jax.random.split(jax.random.PRNGKey(7)),
        "text": "key",
        "another generator": jax.random.key(7, impl="rbg"),
        "a NumPy generator": np.random.default_rng(7),
    }


def _actions(size: int) -> dict[str, Any]:
    return {
        "zeros": np.zeros(size),
        "a list": [0.0] * size,
        "NaN": np.full(size, np.nan),
        "infinite": np.full(size, np.inf),
        "one number more": np.zeros(size + 1),
        "a batch": np.zeros((1, size)),
        "a scalar": 0.0,
        "text": "left",
        "complex": np.zeros(size, np.complex64),
        "objects": np.array([None] * size, object),
    }


def _numbers() -> dict[str, Any]:
    return {
        "an integer": 0,
        "a NumPy number": np.float64(0.0),
        "a JAX number": jnp.float32(0.0),
        "NaN": float("nan"),
        "infinite": float("inf"),
        "beyond float32": 1e300,
        "text": "0",
        "None": None,
        "two numbers": np.zeros(2),
        "complex": 0j,
        "a dict": {},
    }


def _plain(name: str, value: Any) -> Any:
    if name == "key":
        raw = getattr(value, "dtype", None) == np.uint32
        return jax.random.wrap_key_data(jnp.asarray(value)) if raw else value
    return np.asarray(value, np.float32) if name != "reward" and name != "cost" else float(value)
