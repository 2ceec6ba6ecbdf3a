"""Export of a trained policy to a folder that runs with jax and numpy alone.

policy.stablehlo     the policy and its shield as one program, by `jax.export`
policy.json          names, units and ranges of inputs and actions, thresholds, normalizer
run_policy.py        what loads and checks them (`exported_runner.py`)
vendor/flatbuffers   a copy of that package, by which jax reads programs
system.md            the description of the system, if it is one of the user's own
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from proco_jax.algorithms.base import Previous
from proco_jax.common.files import write_atomic, write_text
from proco_jax.deployment import exported_runner
from proco_jax.deployment.policy import LoadedPolicy
from proco_jax.models import dynamics, object_map
from proco_jax.models.normalizer import CLIP
from proco_jax.types import Array

PROGRAM, META, RUNNER = "policy.stablehlo", "policy.json", "run_policy.py"
CHECKED, TIMED = 1000, 500
# The program that is loaded and `load_policy` are compiled separately, and may round differently.
TOLERANCE = 1e-4


class Equality(NamedTuple):
    """How far the actions of an exported policy are from those of `load_policy`, in [-1, 1].

    Attributes:
      states: that were compared.
      largest: largest difference of a number of an action.
      differing: states with a difference above `TOLERANCE`: where two choices of a shield are
        equally good, rounding decides.
    """

    states: int
    largest: float
    differing: int


def export_policy(
    policy: LoadedPolicy,
    folder: Path,
    inputs: Sequence[Mapping[str, Any]],
    actions: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any],
) -> None:
    """Writes the program, its description and the runner.

    Args:
      policy: of `load_policy`.
      folder: new or empty.
      inputs: `name`, `unit`, `low`, `high` of each number observed, the range being that of the
        logs.
      actions: the same of each number of an action, the range being that of the system.
      more: further entries of `policy.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    carry = jax.tree.leaves(policy.initial_carry())
    function = _function(policy)
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in carry]
    size, count = policy.task.observation.size, policy.task.action_size
    numbers = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((size,), (count,), (), ())]
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    # Without the first, what is exported beside an accelerator would run on such ones only.
    platforms = tuple(dict.fromkeys(("cpu", export.default_export_platform())))
    exported = export.export(jax.jit(function), platforms=platforms)(
        like, numbers[0], key, *numbers[1:]
    )
    program = bytes(exported.serialize())
    normalizer, guard = policy.deployed.normalizer, policy.deployed.shield
    meta = {
        "inputs": list(inputs),
        "actions": list(actions),
        "shield": policy.shield,
        "thresholds": None
        if guard is None
        else {
            "qh_threshold": float(guard.qh_threshold),
            "planner_threshold": float(guard.planner_threshold),
            "planner_margin": None if guard.judge is None else guard.judge.widening,
            "least_reward": float(guard.least_reward),
            "disagreement": float(guard.dynamics.limit),
        },
        "normalizer": {
            "shift": [float(x) for x in normalizer.shift],
            "factor": [float(x) for x in normalizer.factor],
            "clip": CLIP,
        },
        "memory": [{"value": np.asarray(x).tolist(), "type": str(x.dtype)} for x in carry],
        "sha256": hashlib.sha256(program).hexdigest(),
        **more,
    }
    write_atomic(folder / PROGRAM, lambda path: path.write_bytes(program))
    write_text(folder / RUNNER, Path(str(exported_runner.__file__)).read_text(encoding="utf-8"))
    source = Path(flatbuffers.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, folder / "vendor" / source.name, ignore=ignored)
    write_text(folder / META, json.dumps(meta, indent=2, allow_nan=False) + "\n")


def check_equal(policy: LoadedPolicy, folder: Path, seed: int = 0) -> Equality:
    """Compares an exported policy with what was exported, on random states like those of the logs.

    States are drawn from a normal distribution with the mean and the deviation of the logs.
    """
    runner = exported_runner.Policy(str(folder))
    normalizer = policy.deployed.normalizer
    shift, factor = np.asarray(normalizer.shift), np.asarray(normalizer.factor)
    size = np.where(factor > 0, 1.0 / np.where(factor > 0, factor, 1.0), 0.0)
    drawn = np.random.default_rng(seed).normal(size=(CHECKED, len(shift)))
    states = (shift + size * drawn).astype(np.float32)
    least, most = (np.array([x[k] for x in runner.info["actions"]]) for k in ("low", "high"))
    differences = np.zeros(CHECKED)
    for i, obs in enumerate(states):
        runner.reset(i)
        found = 2.0 * (runner.step(obs)["action"] - least) / (most - least) - 1.0
        expected = np.asarray(policy(obs, np.array([i, 0], np.uint32)))
        differences[i] = np.abs(found - expected).max()
    return Equality(CHECKED, float(differences.max()), int((differences > TOLERANCE).sum()))


def measure_latency(folder: Path) -> dict[str, float]:
    """Median and 99th percentile of a step in milliseconds, on one core, in a process of its own.

    The process imports jax and numpy only.
    """
    options = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "JAX_NUM_CPU_DEVICES")},
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": options,
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _LATENCY, str(TIMED)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"the exported policy in {folder} does not run: {done.stderr[-2000:]}")
    median, high = map(float, done.stdout.split()[-2:])
    return {"median_ms": median, "p99_ms": high, "steps": TIMED}


_LATENCY = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from run_policy import Policy
policy, seconds = Policy(), []
low, high = (np.array([x[k] for x in policy.info["inputs"]]) for k in ("low", "high"))
states = np.random.default_rng(0).uniform(low, high, (int(sys.argv[1]) + 20, len(low)))
for state in states:
    start = time.perf_counter()
    policy.step(state)
    seconds.append(time.perf_counter() - start)
print(*(1e3 * np.quantile(seconds[20:], (0.5, 0.99))).round(4))
"""


def _function(policy: LoadedPolicy) -> Any:
    """Memory, observation, key, last action, reward and cost to what the runner returns."""
    structure = jax.tree.structure(policy.initial_carry())
    deployed, net = policy.deployed, policy.program.dynamics
    active = jnp.ones((1, 1), bool)

    def function(
        memory: list[Array], obs: Array, key: Array, last: Array, reward: Array, cost: Array
    ) -> tuple[Array, Array, Array, list[Array]]:
        carry = jax.tree.unflatten(structure, memory)
        keys = jax.random.wrap_key_data(key)[None, None]
        previous = Previous(last[None, None], reward[None, None], cost[None, None])
        action, proposed, carry = policy.actor.decide(
            deployed, carry, obs[None, None], previous, keys, active
        )
        intervened = jnp.any(action != proposed)
        unknown = jnp.zeros((), bool)
        if deployed.shield is not None:
            model = deployed.shield.dynamics
            begun = object_map.begin(net.spec, obs)
            found = dynamics.predict_mean(net, model, begun, action[0, 0])
            # The other way round, a disagreement that is not a number would be known.
            unknown = ~(found.disagreement <= model.limit)
        return action[0, 0], intervened, unknown, jax.tree.leaves(carry)

    return function
