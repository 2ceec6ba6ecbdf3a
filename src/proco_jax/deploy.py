"""A trained policy outside of training: from a run's folder to actions.

    act = load_policy("runs/car_button-default")
    action = act(obs, key)

Needs JAX and the folder, no simulator.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from proco_jax import config as configs
from proco_jax import train
from proco_jax.algorithms import proco
from proco_jax.checkpoint import Checkpoints
from proco_jax.observation import ObservationSpec
from proco_jax.scaling import Scale
from proco_jax.types import Array

SCALE_FILE = "scale.json"
POLICY_FOLDER = "policy"


def save_policy(workdir: Path, learner: str, step: int, agents: proco.AgentState) -> None:
    """Keeps the agents of all seeds by themselves, without what only training needs."""
    with Checkpoints(policy_folder(workdir, learner)) as saved:
        saved.save(step, agents)


def scale_text(spec: ObservationSpec, scale: Scale, actions: int) -> str:
    """What `scale.json` says: fields, scale and action size, beside the weights."""
    content = {
        "fields": json.loads(spec.to_json()),
        "shift": [float(x) for x in scale.shift],
        "factor": [float(x) for x in scale.factor],
        "actions": actions,
    }
    return json.dumps(content, indent=1) + "\n"


def load_policy(
    workdir: str | Path, learner: str = "proco", seed: int = 0
) -> Callable[[Array, Array], jax.Array]:
    """The deployed policy of one seed.

    Args:
      workdir: of a finished run.
      learner: `proco` or `baseline`.
      seed: which of the run's policies, counted from 0.

    Returns:
      A compiled function of a raw observation `[O]` and a typed key to an
      action `[A]` in [-1, 1].

    Raises:
      FileNotFoundError: if the folder holds no such policy.
      ValueError: if it was written by another version, or has no such seed.
    """
    workdir = Path(workdir)
    for needed in (workdir / "config.json", workdir / SCALE_FILE, policy_folder(workdir, learner)):
        if not needed.exists():
            raise FileNotFoundError(
                f"no {needed}: expected the folder of a finished run with a learner {learner!r}"
            )
    config = configs.from_json((workdir / "config.json").read_text())
    if not 0 <= seed < config.seeds:
        raise ValueError(f"found seed {seed}, the run has {config.seeds} policies from 0")
    spec, scale, actions = _read_scale(workdir / SCALE_FILE)
    parts = train.make_parts(config, spec, actions)
    agent = jax.tree.map(lambda x: x[seed], load_agents(workdir, learner, config, parts))

    @jax.jit
    def act(agent: Any, obs: Array, key: Array) -> jax.Array:
        return proco.act(config.agent, parts.agent, agent, scale(obs), key)

    return lambda obs, key: act(agent, jnp.asarray(obs), key)


def load_agents(
    workdir: Path, learner: str, config: configs.Config, parts: train.Parts
) -> proco.AgentState:
    """The agents of all seeds of a finished run, with a leading axis.

    Raises:
      FileNotFoundError: if the folder holds no such policy.
    """
    keys = train.seed_keys(config.seed, config.seeds)
    like = jax.eval_shape(jax.vmap(lambda k: proco.init(config.agent, parts.agent, k)), keys)
    with Checkpoints(policy_folder(workdir, learner)) as saved:
        return saved.restore(like)


def policy_folder(workdir: Path, learner: str) -> Path:
    """Where a learner's agents lie."""
    return workdir / POLICY_FOLDER / learner


def _read_scale(path: Path) -> tuple[ObservationSpec, Scale, int]:
    content = json.loads(path.read_text())
    spec = ObservationSpec.from_json(json.dumps(content["fields"]))
    scale = Scale(
        jnp.asarray(content["shift"], jnp.float32), jnp.asarray(content["factor"], jnp.float32)
    )
    return spec, scale, int(content["actions"])
