"""A trained policy outside of training: saved to a folder, loaded as a function.

    policy = load_policy("runs/car_button-default", "proco", "proco", shield="planner")
    action = policy(obs, key)

Loading needs JAX and the folder, no simulator. The folder `policies/<algorithm>-<augmentation>`
holds `policy.json` (settings, fields of the observation, file digests) and `arrays/` (weights,
normalizer, feasibility critics, dynamics, cost network and thresholds of the shield).
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from proco_jax.algorithms import feasibility
from proco_jax.algorithms.base import Previous
from proco_jax.common import sharding
from proco_jax.common.checkpoint import load_arrays, save_arrays
from proco_jax.common.checksums import sealed_json
from proco_jax.common.compiler import jit_compile_fast
from proco_jax.common.files import digests, write_text
from proco_jax.config import schema
from proco_jax.deployment.acting import (
    Actor,
    Deployed,
    count_policies,
    initial_previous,
    make_actor,
    member,
)
from proco_jax.deployment.shield import SHIELD_VERSION, Judge, ShieldState
from proco_jax.models import cost, dynamics
from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import ObservationSpec
from proco_jax.rules.rule import parse_rule
from proco_jax.training.loop import Program, make_hyper, make_program
from proco_jax.types import Array, TaskSpec

FOLDER, META, ARRAYS = "policies", "policy.json", "arrays"
# What `load_policies` reads of `policy.json`.
_KEYS = (
    "algorithm",
    "augmentation",
    "seeds",
    "observation",
    "action_size",
    "episode_steps",
    "cost_limit",
    "shield",
    "config",
    "files",
    "sha256",
)


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedPolicy:
    """One deployed policy.

    Attributes:
      task: fields of the observation, action size, time limit and cost limit.
      shield: name of its shield.
      info: content of `policy.json`.
      program: of its training.
      deployed: its arrays, with leaves `[1, ...]`.
      actor: how it acts.
    """

    task: TaskSpec
    shield: str
    info: Mapping[str, Any]
    program: Program
    deployed: Deployed
    actor: Actor
    _act: Any

    def __call__(self, obs: Array, key: Array) -> jax.Array:
        """The action `[A]` in [-1, 1] for a raw observation `[O]` and a key, at an episode's start.

        For policies with a memory, use `initial_carry` and `act`.

        Raises:
          ValueError: as `act`.
        """
        return self.act(self.initial_carry(), obs, key)[0]

    def initial_carry(self) -> Any:
        """The policy's memory at the start of an episode."""
        return self.actor.initial_carry(1, 1)

    def act(
        self,
        carry: Any,
        obs: Array,
        key: Array,
        last_action: Array | None = None,
        reward: float = 0.0,
        cost: float = 0.0,
    ) -> tuple[jax.Array, Any]:
        """One step of an episode.

        Args:
          carry: of the step before, or `initial_carry()`.
          obs: `[O]` raw observation: real, finite numbers, in the order of `task.observation`.
          key: typed key, or a raw key of two unsigned integers.
          last_action: `[A]` executed before, finite; None at the start of an episode.
          reward: of the step before, a finite number.
          cost: of the step before, a finite number.

        Returns:
          The action `[A]` in [-1, 1], and the new carry.

        Raises:
          ValueError: if one of them is not as described, or so large that the action is not finite.
        """
        obs = _checked_observation(obs, self.task.observation)
        previous = initial_previous(1, 1, self.task.action_size)
        if last_action is not None:
            action = _checked_numbers("last_action", last_action, (self.task.action_size,))
            previous = Previous(action[None, None], *previous[1:])
        previous = previous._replace(
            reward=_checked_numbers("reward", reward, ())[None, None],
            cost=_checked_numbers("cost", cost, ())[None, None],
        )
        keys = _checked_key(key)[None, None]
        active = jnp.ones((1, 1), bool)
        action, carry = self._act(self.deployed, carry, obs[None, None], previous, keys, active)
        if not isinstance(action, Tracer) and not np.isfinite(action).all():
            raise ValueError(
                "observation: the networks' numbers overflow; expected numbers in the range of the "
                f"logs, found up to {np.abs(np.asarray(obs)).max():g}"
            )
        return action[0, 0], carry


def policy_name(algorithm: str, augmentation: str) -> str:
    """The name of a trained policy: of its folder, its stage and its reports."""
    return f"{algorithm}-{augmentation}"


def shield_content(guard: ShieldState) -> dict[str, Any]:
    """What a shield knows beside its arrays, as JSON data."""
    return {
        "version": SHIELD_VERSION,
        "qh_threshold": float(guard.qh_threshold),
        "planner_threshold": float(guard.planner_threshold),
        "least_reward": float(guard.least_reward),
        "cost_network": guard.cost is not None,
        "rules": [] if guard.judge is None else [rule.text for rule in guard.judge.rules],
        "margin": None if guard.judge is None else guard.judge.widening,
    }


def save_policies(
    workdir: Path, program: Program, algorithm: str, augmentation: str, deployed: Deployed
) -> None:
    """Saves the policies of all seeds, replacing what was there, whole or not at all.

    Args:
      algorithm: the name by which `algorithms.make_algorithm` makes the algorithm again.
      augmentation: the name of the augmentation that they were trained with.
    """
    name = policy_name(program.algorithm.name, augmentation)
    folder = workdir / FOLDER / name
    partial = folder.with_name(f".{name}")
    shutil.rmtree(partial, ignore_errors=True)
    save_arrays(partial / ARRAYS, _with_judge(deployed, None))
    guard = deployed.shield
    meta = {
        "algorithm": algorithm,
        "augmentation": augmentation,
        "seeds": count_policies(deployed),
        "observation": json.loads(program.task.observation.to_json()),
        "action_size": program.task.action_size,
        "episode_steps": program.task.episode_steps,
        "cost_limit": program.task.cost_limit,
        "shield": None if guard is None else shield_content(guard),
        "config": json.loads(schema.to_json(program.config)),
        "files": digests(partial / ARRAYS),
    }
    write_text(partial / META, sealed_json(meta))
    if folder.exists():
        old = folder.with_name(f".{name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)
    else:
        partial.rename(folder)


def load_policy(
    workdir: str | Path,
    algorithm: str = "proco",
    augmentation: str = "proco",
    shield: str | None = None,
    seed: int = 0,
) -> LoadedPolicy:
    """Loads the policy of one seed.

    Args:
      workdir: of a finished run.
      algorithm: the algorithm's name in the results.
      augmentation: the augmentation that the policy was trained with.
      shield: `none`, `filter` or `planner`; None for the planner where the policy has the state
        of a shield, else none.
      seed: which of the run's policies, counted from 0.

    Raises:
      FileNotFoundError: if the folder holds no such policy.
      ValueError: if a file is damaged or of another version, or the policy has no such seed or
        shield.
    """
    folder = Path(workdir) / FOLDER / policy_name(algorithm, augmentation)
    meta = _read_meta(folder)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ValueError(f"seed: found {seed!r}, expected an integer")
    if not 0 <= seed < meta["seeds"]:
        raise ValueError(f"seed: found {seed}, the run has {meta['seeds']} policies, from 0")
    program, deployed = _load(folder, meta)
    guard = deployed.shield
    shield = shield or ("none" if guard is None else "planner")
    if guard is None and shield != "none":
        raise ValueError(
            f"shield: found {shield!r}, but {folder} holds no feasibility critics; expected 'none'"
        )
    actor = make_actor(program, shield)
    one = member(deployed, int(seed))
    act = jit_compile_fast(actor.act)
    return LoadedPolicy(program.task, shield, meta, program, one, actor, act)


def load_policies(
    workdir: str | Path, algorithm: str, augmentation: str
) -> tuple[Program, Deployed]:
    """The policies of all seeds of a run, as `save_policies` was given them.

    Raises:
      FileNotFoundError: if the folder holds no such policies.
      ValueError: if a file is damaged or of another version.
    """
    folder = Path(workdir) / FOLDER / policy_name(algorithm, augmentation)
    meta = _read_meta(folder)
    program, deployed = _load(folder, meta)
    return program, sharding.for_acting(deployed, int(meta["seeds"]))


def _load(folder: Path, meta: dict[str, Any]) -> tuple[Program, Deployed]:
    """The policies of all seeds, with the content of `policy.json`."""
    found = digests(folder / ARRAYS)
    if found != meta["files"]:
        changed = sorted(
            name for name in {*found, *meta["files"]} if found.get(name) != meta["files"].get(name)
        )
        raise ValueError(
            f"{folder / ARRAYS}: {', '.join(changed[:3])} differs from what was saved; "
            f"{_remedy(folder)}"
        )
    config = schema.from_json(json.dumps(meta["config"]))
    task = TaskSpec(
        ObservationSpec.from_json(json.dumps(meta["observation"])),
        int(meta["action_size"]),
        int(meta["episode_steps"]),
        float(meta["cost_limit"]),
    )
    program = make_program(config, task, meta["algorithm"], meta["augmentation"])
    like = jax.eval_shape(lambda: _empty(program, int(meta["seeds"]), meta["shield"]))
    deployed: Deployed = load_arrays(folder / ARRAYS, like, verified=True)
    return program, _with_judge(deployed, _judge_of(meta["shield"], task.observation))


def _judge_of(shield: Mapping[str, Any] | None, spec: ObservationSpec) -> Judge | None:
    """The rules that a shield of `policy.json` judges by."""
    if shield is None or not shield["rules"]:
        return None
    rules = tuple(parse_rule(text, spec) for text in shield["rules"])
    return Judge(rules, float(shield["margin"]))


def _with_judge(deployed: Deployed, judge: Judge | None) -> Deployed:
    """Policies with another judge in their shield, if they have one; `policy.json` holds it."""
    if deployed.shield is None:
        return deployed
    return deployed._replace(shield=deployed.shield._replace(judge=judge))


def _empty(program: Program, seeds: int, shield: Mapping[str, Any] | None) -> Deployed:
    """Policies of the structure and shapes of saved ones, with arbitrary values.

    Args:
      shield: of `policy.json`.
    """
    config, task = program.config, program.task
    state_keys, critic_keys = jax.random.split(jax.random.key(0), (2, seeds))
    hyper = make_hyper(program, seeds).algorithm
    model = dynamics.empty_model(config.dynamics, task.observation, task.action_size)
    guard = None
    if shield is not None:
        critics = jax.vmap(
            lambda key: feasibility.init(program.feasibility, task.action_size, key).params
        )(critic_keys)
        known = cost.empty_model(config.cost, program.cost) if shield["cost_network"] else None
        zero = jnp.zeros(())
        guard = ShieldState(critics, model, zero, zero, zero, known)
    each = jnp.zeros(task.observation.size)
    state = jax.vmap(program.algorithm.init)(state_keys, hyper)
    return Deployed(state, hyper, Normalizer(each, each), guard)


def _read_meta(folder: Path) -> dict[str, Any]:
    """The content of `policy.json`."""
    path = folder / META
    if not path.exists():
        there = sorted(p.name for p in folder.parent.glob("[!.]*"))
        raise FileNotFoundError(
            f"no {path}: expected the workdir of a finished run with the policy {folder.name!r}; "
            f"policies there: {', '.join(there) or 'none'}"
        )
    remedy = _remedy(folder)
    try:
        text = path.read_bytes().decode()
        meta = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    missing = set(_KEYS) - set(meta)
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}: it was written by another version")
    if meta["shield"] is not None and dict(meta["shield"]).get("version") != SHIELD_VERSION:
        # Its thresholds were chosen for another planner.
        raise ValueError(
            f"{path} was written by another version, with another planner; run the same command "
            "with a new --workdir, which takes what is trained already from the store"
        )
    # Without this, a changed digit in the config would change the actions unnoticed.
    if text != sealed_json({key: value for key, value in meta.items() if key != "sha256"}):
        raise ValueError(f"{path} differs from what was saved; {remedy}")
    return meta


def _remedy(folder: Path) -> str:
    return (
        f"remove {folder}, then the same command of the run saves the policy anew without training"
    )


def _checked_observation(obs: Array, spec: ObservationSpec) -> jax.Array:
    """An observation as `[O]` float32.

    Raises:
      ValueError: unless it has that shape and holds real, finite numbers.
    """
    obs = _real_array("observation", obs)
    if obs.shape != (spec.size,):
        fields = ", ".join(f"{f.name} ({f.size})" for f in spec.fields)
        raise ValueError(f"observation: found shape {obs.shape}, expected ({spec.size},): {fields}")
    # Inside of a compiled function there are no values to check.
    if not isinstance(obs, Tracer) and not (finite := np.isfinite(obs)).all():
        bad = [f.name for f in spec.fields if not finite[spec.slices[f.name]].all()]
        raise ValueError(f"observation: {', '.join(bad)} not finite, expected finite numbers")
    return jnp.asarray(obs)


def _checked_numbers(name: str, values: Any, shape: tuple[int, ...]) -> jax.Array:
    """Finite numbers of a shape as float32.

    Raises:
      ValueError: if they are anything else.
    """
    array = _real_array(name, values)
    if array.shape != shape:
        raise ValueError(f"{name}: found shape {array.shape}, expected {shape}")
    if not isinstance(array, Tracer) and not np.isfinite(array).all():
        raise ValueError(f"{name}: found {array}, expected finite numbers")
    return jnp.asarray(array)


def _real_array(name: str, values: Any) -> Any:
    """Real numbers as a float32 array, of JAX inside of a compiled function, else of NumPy.

    Numbers beyond float32 become infinite.

    Raises:
      ValueError: if they are no array of real numbers.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{name}: found masked values, expected finite numbers")
    if not isinstance(values, Tracer):
        try:
            values = np.asarray(values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected an array of real numbers: {error}") from error
    if not (
        jnp.issubdtype(values.dtype, jnp.floating) or jnp.issubdtype(values.dtype, jnp.integer)
    ):
        raise ValueError(f"{name}: found type {values.dtype}, expected real numbers")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _checked_key(key: Array) -> jax.Array:
    """A key as a typed scalar key.

    Raises:
      ValueError: unless it is a typed key or a raw one.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    if dtype == np.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    raise ValueError(f"key: found {key!r}, expected jax.random.key(seed)")
