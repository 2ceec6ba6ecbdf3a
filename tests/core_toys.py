"""A small observation, small logs, small networks for the tests of the learning core."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.augmentation.base import Context, WorldModel
from proco_jax.common.random_streams import Stream, stream_keys
from proco_jax.config.schema import (
    BcConfig,
    BcqLagConfig,
    BearLagConfig,
    BonusConfig,
    CdtConfig,
    Config,
    CoptidiceConfig,
    CostConfig,
    CpqConfig,
    DynamicsConfig,
    EncoderConfig,
    FeasibilityConfig,
    FisorConfig,
    ImaginationConfig,
    ProcoConfig,
    RolloutConfig,
    ShieldConfig,
    TrainConfig,
)
from proco_jax.data.logs import to_dataset
from proco_jax.models import cost, dynamics, dynamics_targets
from proco_jax.models.normalizer import Normalizer, fit_normalizer
from proco_jax.observation import Field, ObservationSpec
from proco_jax.training import loop
from proco_jax.types import Dataset, Episode, NStep, TaskSpec, Transition

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


TASK = TaskSpec(SPEC, ACTIONS, episode_steps=20, cost_limit=10.0)
# The same numbers without their geometry: programs that compile fast.
FLAT = ObservationSpec((Field("numbers", SPEC.size, "flat", "", "All numbers."),))
FLAT_TASK = TASK._replace(observation=FLAT)


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
        feasibility=FeasibilityConfig(hidden=(16,)),
        bonus=BonusConfig(members=2, steps=50, batch=32),
        proco=ProcoConfig(
            hidden=(16,),
            imagination=ImaginationConfig(
                updates=5,
                warmup=1,
                interval=2,
                critic_steps=2,
                worlds=6,
                horizon=4,
                age=3,
                minibatches=2,
            ),
        ),
        bc=BcConfig(hidden=(16,)),
        bcq_lag=BcqLagConfig(hidden=(8,), vae_hidden=(8,), samples=2),
        bear_lag=BearLagConfig(hidden=(8,), vae_hidden=(8,), samples=2),
        cpq=CpqConfig(hidden=(8,), vae_hidden=(8,), samples=2),
        coptidice=CoptidiceConfig(hidden=(8,)),
        cdt=CdtConfig(width=8, layers=1, heads=2, context=3, batch=8),
        fisor=FisorConfig(hidden=(8,), width=8, blocks=1, time_features=4, candidates=2),
        shield=ShieldConfig(
            samples=5, planner_variations=3, planner_candidates=1, planner_horizon=6
        ),
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


def toy_normalizer(data: Dataset, spec: ObservationSpec = SPEC) -> Normalizer:
    """The normalizer fitted on these logs."""
    return jax.tree.map(jnp.asarray, fit_normalizer(spec, np.asarray(data.obs)))


def drawn(like: Any, seed: int = 0) -> Any:
    """Normal numbers in the shapes of `like`, without a compilation."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape).astype(np.float32)), like)


def drawn_params(net: Any, seed: int, *inputs: jax.Array) -> Any:
    """Random parameters of a network for inputs like these."""
    return drawn(jax.eval_shape(net.init, jax.random.key(0), *inputs), seed)


def toy_model(
    config: Config, data: Dataset, normalizer: Normalizer, spec: ObservationSpec = SPEC
) -> dynamics.Model:
    """An ensemble that was never fitted, and whose rollouts never end."""
    settings = config.dynamics
    like = jax.eval_shape(lambda k: dynamics.init(settings, spec, ACTIONS, k), jax.random.key(7))
    params = drawn(like.params)
    targets = jax.tree.map(jnp.asarray, dynamics_targets.fit_targets(spec, normalizer, data))
    # The first ring shows resting objects, others do not.
    resting = jnp.arange(max(len(spec.rings), 1)) == 0
    elites = jnp.arange(settings.elites)
    fixed = jnp.zeros(max(len(spec.vectors), 1), bool)
    return dynamics.Model(
        params, elites, normalizer, targets, jnp.float32(1e9), resting, 1.0 * resting, fixed
    )


def toy_cost_model(
    config: Config, data: Dataset, normalizer: Normalizer, spec: ObservationSpec = SPEC
) -> cost.CostModel:
    """A cost network that was never fitted and calls about a tenth of the logs unsafe."""
    net = cost.network(config.cost, config.encoder, spec)
    like = jax.eval_shape(lambda k: cost.init(config.cost, net, k), jax.random.key(8))
    model = cost.CostModel(drawn(like.params), normalizer, jnp.float32(1.0), jnp.float32(0.0))
    scores = jax.jit(lambda m, o: cost.score(net, m, o))(model, data.obs)
    return model._replace(threshold=jnp.quantile(scores, 0.9))


def toy_context(
    config: Config | None = None, with_world: bool = True, spec: ObservationSpec = SPEC
) -> Context:
    """What training reads: logs, normalizer, and a world model that was never fitted."""
    config = config or tiny_config()
    data = toy_dataset()
    normalizer = toy_normalizer(data, spec)
    if not with_world:
        return Context(data, normalizer, None)
    model = toy_model(config, data, normalizer, spec)
    cost_model = toy_cost_model(config, data, normalizer, spec)
    net = cost.network(config.cost, config.encoder, spec)
    unsafe = jax.jit(lambda m, o: cost.unsafe(net, m, o))(cost_model, data.obs[data.obs_index + 1])
    return Context(data, normalizer, WorldModel(model, cost_model, unsafe, jnp.arange(20)))


def toy_program(
    algorithm: str = "proco",
    augmentation: str = "proco",
    config: Config | None = None,
    task: TaskSpec = TASK,
) -> loop.Program:
    """A program for the small observation, or for another."""
    return loop.make_program(config or tiny_config(), task, algorithm, augmentation)


def toy_keys(members: int = 2) -> jax.Array:
    """Keys of the first members' trainings."""
    return stream_keys(0, members, Stream.TRAINING)


def random_batch(logged: int, imagined: int, n: int = 3) -> Transition:
    """Random rows: logged ones first, every third row with a violation at once."""
    count = logged + imagined
    keys = jax.random.split(jax.random.key(1), 4)
    obs = jax.random.uniform(keys[0], (3, count, SPEC.size))
    reward = jax.random.normal(keys[1], (count, n))
    violation = jnp.zeros((count, n), bool).at[:, 0].set(jnp.arange(count) % 3 == 0)
    cost, ones = violation.astype(jnp.float32), jnp.ones(count)
    window = NStep(reward, cost, violation, jnp.ones((count, n), bool), obs[2], ones)
    return Transition(
        obs=obs[0],
        action=jax.random.uniform(keys[2], (count, ACTIONS), minval=-1.0),
        reward=reward[:, 0],
        cost=cost[:, 0],
        next_obs=obs[1],
        discount=ones,
        initial_obs=obs[0],
        n_step=window,
        weight=ones,
        imagined=jnp.arange(count) >= logged,
    )


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
