"""Whatever settings `config.schema` admits, training and acting give finite numbers."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, FLAT_TASK, TASK, tiny_config, toy_context, toy_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from proco_jax.config.schema import LARGEST_NUMBER, LARGEST_ROW_FACTOR, Config, replaced
from proco_jax.config.validation import validate
from proco_jax.deployment.acting import Deployed, initial_previous, make_actor
from proco_jax.deployment.shield import ShieldState
from proco_jax.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked_keys")]

MEMBERS, EPISODES = 2, 3
SECTIONS = ("proco", "bc", "feasibility", "augmentation", "rollouts", "shield")
# These change shapes, and with them the compiled program; CORNERS has their ends.
STATIC = ("augmentation.imagined_share", "rollouts.recovery_share")
# Every method diverges with a step far above the size of its weights.
LARGEST_LEARNING_RATE = 0.1
CORNERS: dict[str, dict[str, Any]] = {
    "almost all imagined": {
        "augmentation.imagined_share": 0.9,
        "rollouts.recovery_share": 1.0,
        "shield.planner_block": 1,
    },
    "smallest counts": {
        "rollouts.recovery_share": 0.0,
        "rollouts.horizon": 1,
        "rollouts.starts": 1,
        "rollouts.candidates": 1,
        "rollouts.generations": 1,
        "rollouts.warmup": 1,
        "shield.samples": 1,
        "shield.planner_candidates": 1,
        "shield.planner_variations": 1,
        "shield.planner_horizon": 1,
        "train.n_step": 1,
        "train.batch": 1,
    },
}


def float_settings() -> dict[str, st.SearchStrategy[float]]:
    """Every number of the small sections that is no count, within its bounds."""
    found = {}
    for section in SECTIONS:
        for field in dataclasses.fields(getattr(Config(), section)):
            name = f"{section}.{field.name}"
            if not isinstance(field.default, float) or name in STATIC:
                continue
            bound = field.metadata["bound"]
            high = LARGEST_LEARNING_RATE if field.name == "learning_rate" else bound.high
            found[name] = st.floats(bound.low, high)
    return found


@functools.cache
def compiled(algorithm: str) -> tuple[Any, ...]:
    """A program whose shapes all drawn settings share, and its compiled parts."""
    task = TASK if algorithm == "proco" else FLAT_TASK
    return compiled_parts(loop.make_program(tiny_config(), task, algorithm, "proco"))


def compiled_parts(program: loop.Program) -> tuple[Any, ...]:
    return (
        program,
        toy_context(program.config, spec=program.task.observation),
        loop.make_training(program),
        jax.jit(make_actor(program, "planner").act),
    )


def train_and_act(config: Config, algorithm: str, parts: tuple[Any, ...]) -> None:
    """One chunk and one step under the planner with a config's hyperparameters."""
    program, context, training, act = parts
    hyper = loop.make_hyper(loop.make_program(config, program.task, algorithm, "proco"), MEMBERS)
    state = training.init(context, hyper, toy_keys(MEMBERS))
    state = training.warm_up(context, hyper, state)
    state, metrics = training.chunk(context, hyper, state)
    bad = {k: np.asarray(v) for k, v in metrics.items() if not np.isfinite(v).all()}
    assert not bad
    for leaf in jax.tree.leaves(state.algorithm):
        assert np.isfinite(np.asarray(leaf)).all()
    critics = loop.critics_of(program, state)
    assert critics is not None and context.world is not None
    shield = ShieldState(
        critics.params,
        context.world.dynamics,
        jnp.float32(config.shield.qh_threshold),
        jnp.float32(config.shield.planner_threshold),
        jnp.float32(20.0 * config.shield.reward_quantile - 10.0),
        context.world.cost,
    )
    deployed = Deployed(state.algorithm, hyper.algorithm, context.normalizer, shield)
    obs = jnp.broadcast_to(
        context.data.obs[:EPISODES], (MEMBERS, EPISODES, program.task.observation.size)
    )
    keys = jax.random.split(jax.random.key(5), (MEMBERS, EPISODES))
    previous = initial_previous(MEMBERS, EPISODES, ACTIONS)
    carry = make_actor(program, "planner").initial_carry(MEMBERS, EPISODES)
    active = jnp.ones((MEMBERS, EPISODES), bool)
    action = np.asarray(act(deployed, carry, obs, previous, keys, active)[0])
    assert action.shape == (MEMBERS, EPISODES, ACTIONS)
    assert np.isfinite(action).all() and np.abs(action).max() <= 1.0


@pytest.mark.parametrize("algorithm", ["proco", "bc"])
@given(values=st.fixed_dictionaries(float_settings()))
@settings(max_examples=8, deadline=None)
def test_all_admitted_numbers_train_and_act(algorithm: str, values: dict[str, float]) -> None:
    config = replaced(tiny_config(), values)
    validate(config)
    train_and_act(config, algorithm, compiled(algorithm))


def test_the_largest_weights_of_rows_train_and_act() -> None:
    largest = {f"proco.{name}_weight_limit": LARGEST_NUMBER for name in ("cost", "reward")}
    values = largest | {"proco.imagined_weight": LARGEST_ROW_FACTOR, "proco.cost_temperature": 1e3}
    config = replaced(tiny_config(), values)
    validate(config)
    train_and_act(config, "proco", compiled("proco"))


@pytest.mark.parametrize("corner", CORNERS)
def test_the_ends_of_shapes_train_and_act(corner: str) -> None:
    config = replaced(tiny_config(), CORNERS[corner])
    validate(config)
    # These shapes are not those of the observation, whose geometry takes long to compile.
    program = loop.make_program(config, FLAT_TASK, "proco", "proco")
    train_and_act(config, "proco", compiled_parts(program))
