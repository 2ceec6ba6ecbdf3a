"""A trained policy outside of training: from a run's folder to actions.

    act = load_policy("runs/car_button-default")
    action = act(obs, key)

Needs JAX and the folder, no simulator: the way out of danger is looked for in the
fitted dynamics, which lie there too.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from proco_jax.algorithms import proco
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.config import schema as configs
from proco_jax.deployment import shield as acting
from proco_jax.deployment import violation_forecast as foreseen
from proco_jax.models import dynamics
from proco_jax.models.dynamics_targets import Targets
from proco_jax.models.normalizer import Scale
from proco_jax.observation import ObservationSpec
from proco_jax.training import loop as train
from proco_jax.types import Array

SCALE_FILE = "scale.json"
POLICY_FOLDER = "policy"
PROCO = "proco"
DYNAMICS = "dynamics"


def save_policy(
    workdir: Path,
    learner: str,
    step: int,
    agents: proco.AgentState,
    model: dynamics.Model | None = None,
) -> None:
    """Keeps the agents of all seeds, and PROCO's model, without what only training needs."""
    if model is not None:
        with Checkpoints(policy_folder(workdir, DYNAMICS)) as saved:
            saved.save(step, model)
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
    parts_of_it = (learner, DYNAMICS) if learner == PROCO else (learner,)
    folders = [policy_folder(workdir, x) for x in parts_of_it]
    for needed in (workdir / "config.json", workdir / SCALE_FILE, *folders):
        _check_there(needed, learner)
    config = configs.from_json((workdir / "config.json").read_text())
    if learner == PROCO:
        config = deployed(workdir, config)
    if not 0 <= seed < config.seeds:
        raise ValueError(f"found seed {seed}, the run has {config.seeds} policies from 0")
    spec, scale, actions = _read_scale(workdir / SCALE_FILE)
    parts = train.make_parts(config, spec, actions)
    model = _load_model(workdir, config, parts, actions) if learner == PROCO else None
    if config.dynamics.per_seed:
        model = _only(seed, model)
    agent = _only(seed, load_agents(workdir, learner, config, parts))

    @jax.jit
    def act(model: Any, agent: Any, obs: Array, key: Array) -> jax.Array:
        return acting.act(parts, scale, model, agent, obs[None, None], key[None, None])[0, 0]

    return lambda obs, key: act(model, agent, jnp.asarray(obs), key)


def deployed(workdir: Path, config: configs.Config) -> configs.Config:
    """A run's config with the bounds on Q_h that its PROCO policies are deployed with.

    Raises:
      FileNotFoundError: if `agent.risk` is set and what the model foresees is not there.
    """
    if config.agent.risk <= 0:
        return config
    path = workdir / foreseen.FILE
    _check_there(path, PROCO)
    rows = json.loads(path.read_text())[foreseen.ROWS]
    row = next(row for row in rows if row["deployed"])
    return foreseen.with_bounds(config, row["feasible_up_to"], row["escape_above"])


def empty_model(
    config: configs.DynamicsConfig, spec: ObservationSpec, actions: int
) -> dynamics.Model:
    """A model that knows nothing, of the structure and shapes of a fitted one."""
    state = dynamics.init(config, spec, actions, jax.random.key(0))
    each, change = jnp.zeros(spec.size), jnp.zeros(spec.size + dynamics.REWARDS)
    targets = Targets(change, change, change, jnp.zeros(len(spec.rings)), jnp.zeros(2))
    elites = jnp.zeros(min(config.elites, config.members), jnp.int32)
    return dynamics.Model(state.best_params, elites, Scale(each, each), targets, jnp.zeros(()))


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


def _check_there(path: Path, learner: str) -> None:
    if not path.exists():
        raise FileNotFoundError(
            f"no {path}: expected the folder of a finished run with a learner {learner!r}"
        )


def _load_model(
    workdir: Path, config: configs.Config, parts: train.Parts, actions: int
) -> dynamics.Model:
    """The dynamics of a finished run, as `save_policy` was given them."""
    like = jax.eval_shape(lambda: empty_model(config.dynamics, parts.spec, actions))
    if config.dynamics.per_seed:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((config.seeds, *x.shape), x.dtype), like)
    with Checkpoints(policy_folder(workdir, DYNAMICS)) as saved:
        return saved.restore(like)


def _only(seed: int, tree: Any) -> Any:
    """One seed of several; its leading axis stays."""
    return jax.tree.map(lambda x: x[seed : seed + 1], tree)


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
