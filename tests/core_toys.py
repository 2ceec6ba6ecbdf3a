"""A small observation, small logs, small networks for the tests of the learning core."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.config.schema import (
    AgentConfig,
    Config,
    CostConfig,
    DynamicsConfig,
    EncoderConfig,
    RolloutConfig,
    TrainConfig,
)
from proco_jax.data.logs import to_dataset
from proco_jax.models import cost, dynamics
from proco_jax.models import dynamics_targets as changes
from proco_jax.models.normalizer import Scale, fit_scale
from proco_jax.observation import Field, ObservationSpec
from proco_jax.training import loop as train
from proco_jax.types import Dataset, Episode

BINS, ACTIONS = 8, 2
SPEC = ObservationSpec(
    (
        Field("velocity", 3, "vector", "m/s", "Velocity.", group="motion"),
        Field("hazards", BINS, "ring", "closeness", "Hazards.", reach=3.0, group="hazards"),
        Field("gyro", 1, "flat", "rad/s", "Turning speed.", group="motion"),
        Field("goal", BINS, "ring", "closeness", "Goal.", reach=3.0, group="goal"),
        Field("battery", 1, "flat", "V", "Never changes.", group="battery"),
    )
)


def tiny_config() -> Config:
    """A config whose every part is as small as it can be."""
    return Config(
        seeds=2,
        encoder=EncoderConfig(bin_hidden=(8, 8), features=16),
        dynamics=DynamicsConfig(
            members=3, elites=2, bin_hidden=(8, 8), hidden=(16,), batch=32, holdout_every=50
        ),
        cost=CostConfig(members=2, hidden=(16,), batch=32, steps=200, learning_rate=1e-2),
        rollouts=RolloutConfig(
            horizon=4, starts=4, candidates=2, interval=2, generations=3, warmup=1
        ),
        agent=AgentConfig(hidden=(16,), samples=4),
        train=TrainConfig(steps=8, batch=32, chunk=4, checkpoint_every=4),
    )


def toy_episode(seed: int, steps: int = 20, terminated: bool = False) -> Episode:
    """Action 0 speeds up and turns the rings by its sign; the battery never changes."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (steps, ACTIONS)).astype(np.float32)
    obs = [np.concatenate([rng.normal(size=4), [12.0], rng.uniform(size=2 * BINS)])]
    for a in action:
        last = obs[-1]
        velocity = 0.9 * last[:3] + 0.3 * np.array([a[0], a[1], 0.0])
        rings = np.roll(last[5:].reshape(2, BINS), int(np.sign(a[0])), axis=1).ravel()
        obs.append(np.concatenate([velocity, [a[1]], [12.0], rings]))
    rows = np.stack(obs).astype(np.float32)
    ordered = np.concatenate(
        [rows[:, :3], rows[:, 5 : 5 + BINS], rows[:, 3:4], rows[:, 5 + BINS :], rows[:, 4:5]], 1
    )
    return Episode(
        obs=ordered,
        action=action,
        reward=action[:, 0].copy(),
        cost=np.zeros(steps, np.float32),
        terminated=terminated,
    )


def toy_dataset(episodes: int = 12) -> Dataset:
    """Logs on the device."""
    return jax.tree.map(jnp.asarray, to_dataset([toy_episode(i) for i in range(episodes)]))


def toy_scale(data: Dataset) -> Scale:
    """The scale fitted on these logs."""
    return jax.tree.map(jnp.asarray, fit_scale(SPEC, np.asarray(data.obs)))


def drawn(like: Any, seed: int = 0) -> Any:
    """Normal numbers in the shapes of `like`, without a compilation."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape).astype(np.float32)), like)


def drawn_params(net: Any, seed: int, *inputs: jax.Array) -> Any:
    """Random parameters of a network for inputs like these."""
    return drawn(jax.eval_shape(net.init, jax.random.key(0), *inputs), seed)


def toy_model(parts: train.Parts, data: Dataset, scale: Scale) -> dynamics.Model:
    """An ensemble that was never fitted, and never gives up a rollout."""
    config = parts.config.dynamics
    like = jax.eval_shape(lambda k: dynamics.init(config, SPEC, ACTIONS, k), jax.random.key(7))
    params = drawn(like.params)
    targets = jax.tree.map(jnp.asarray, changes.fit_targets(SPEC, scale, data))
    return dynamics.Model(params, jnp.arange(config.elites), scale, targets, jnp.float32(1e9))


def toy_cost_model(parts: train.Parts, data: Dataset, scale: Scale) -> cost.CostModel:
    """A cost network that was never fitted and calls about a tenth of the logs unsafe."""
    like = jax.eval_shape(lambda k: cost.init(parts.config.cost, parts.cost, k), jax.random.key(8))
    params = drawn(like.params)
    model = cost.CostModel(params, scale, jnp.float32(1.0), jnp.float32(0.0))
    scores = jax.jit(lambda m, o: cost.score(parts.cost, m, o))(model, data.obs)
    return model._replace(threshold=jnp.quantile(scores, 0.9))


def toy_context(parts: train.Parts, with_knowledge: bool = True) -> train.Context:
    """What training reads."""
    data = toy_dataset()
    scale = toy_scale(data)
    if not with_knowledge:
        return train.Context(data, scale, None)
    model, cost_model = toy_model(parts, data, scale), toy_cost_model(parts, data, scale)
    unsafe = jax.jit(lambda m, o: cost.unsafe(parts.cost, m, o))(
        cost_model, data.obs[data.obs_index + 1]
    )
    known = train.Knowledge(model, cost_model, unsafe, jnp.arange(20))
    return train.Context(data, scale, known)


def toy_parts(config: Config | None = None) -> train.Parts:
    """Networks for the small observation."""
    return train.make_parts(config or tiny_config(), SPEC, ACTIONS)


def same_leaves(left: Any, right: Any, **tolerance: Any) -> None:
    """Asserts that two trees are equal, bit for bit unless a tolerance is given."""

    def plain(x: Any) -> np.ndarray:
        typed_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if typed_key else x)

    a, b = jax.tree.leaves(left), jax.tree.leaves(right)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        if tolerance:
            np.testing.assert_allclose(plain(x), plain(y), **tolerance)
        else:
            np.testing.assert_array_equal(plain(x), plain(y))
