"""Small observations, random rows, known networks and a bandit, for algorithms with critics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from core_toys import same_leaves

from proco_jax.algorithms.base import Algorithm
from proco_jax.config.schema import Config, EncoderConfig, replaced
from proco_jax.observation import Field, ObservationSpec
from proco_jax.training.loop import no_previous
from proco_jax.types import NStep, TaskSpec, Transition

NUMBERS = ObservationSpec((Field("numbers", 3, "flat", "", "Any numbers."),))
SIZE, ACTIONS = 3, 2
# With an episode of one step, the limit of values is the limit of costs.
TASK = TaskSpec(NUMBERS, ACTIONS, episode_steps=1, cost_limit=0.5)
BANDIT = TaskSpec(NUMBERS, 1, episode_steps=1, cost_limit=0.6)


def small_config(section: str, **settings: Any) -> Config:
    """A config with tiny networks for the algorithm of this section."""
    tiny = {"hidden": (8,), "vae_hidden": (8,), "samples": 4} | settings
    config = Config(encoder=EncoderConfig(rings=False, features=tiny["hidden"][0]))
    return replaced(config, {f"{section}.{name}": value for name, value in tiny.items()})


class Known:
    """A network that is a plain function of its inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def apply(self, params: Any, *inputs: Any, **options: Any) -> Any:
        return self.function(*inputs)


def make_rows(obs: Any, action: Any, reward: Any, cost: Any, **others: Any) -> Transition:
    """Logged rows `[B]` that lead back to their own observation, unless told."""
    obs, action = jnp.asarray(obs, jnp.float32), jnp.asarray(action, jnp.float32)
    reward, cost = jnp.asarray(reward, jnp.float32), jnp.asarray(cost, jnp.float32)
    ones = jnp.ones(reward.shape[0])
    # Windows of two steps, the second without reward and cost.
    earned, paid = (jnp.stack([x, jnp.zeros_like(x)], axis=1) for x in (reward, cost))
    window = NStep(earned, paid, paid > 0, jnp.ones(paid.shape, bool), obs, ones)
    rows = Transition(
        obs, action, reward, cost, obs, ones, obs, window, ones, jnp.zeros(len(ones), bool)
    )
    return rows._replace(**others)


def random_rows(logged: int = 6, imagined: int = 4, seed: int = 0) -> Transition:
    """Random rows, logged ones first, every third with a cost."""
    rng, count = np.random.default_rng(seed), logged + imagined
    return make_rows(
        rng.normal(size=(count, SIZE)),
        rng.uniform(-1, 1, (count, ACTIONS)),
        rng.normal(size=count),
        np.arange(count) % 3 == 0,
        next_obs=jnp.asarray(rng.normal(size=(count, SIZE)), jnp.float32),
        imagined=jnp.arange(count) >= logged,
    )


def moved(before: Any, after: Any) -> bool:
    """Whether any number of a tree changed."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def moved_parts(before: Any, after: Any) -> set[str]:
    """The networks whose parameters two states do not share."""
    return {n for n in before.params if moved(before.params[n], after.params[n])}


def nonzero(tree: Any) -> bool:
    """Whether any number of a tree differs from 0."""
    return any(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(tree))


def bandit_rows(key: jax.Array, count: int = 64) -> Transition:
    """Actions from -1 to 1, of which 0.8 earns most; the cost is (action + 1) / 2.

    Every row ends its episode. With a limit of 0.6 the best action is 0.2.
    """
    obs_key, action_key = jax.random.split(key)
    action = jax.random.uniform(action_key, (count, 1), minval=-1.0)
    reward, cost = 1.0 - jnp.square(action[:, 0] - 0.8), 0.5 * (action[:, 0] + 1.0)
    obs = jax.random.uniform(obs_key, (count, SIZE), minval=-1.0)
    return make_rows(obs, action, reward, cost, discount=jnp.zeros(count))


def bandit_learner(
    algorithm: Algorithm, steps: int, change: Callable[[Any], Any] = lambda state: state
) -> Callable[[bool], tuple[Any, np.ndarray]]:
    """A function that learns the bandit: its state, and actions `[16]` in random states.

    Its argument is whether actions cost anything.

    Args:
      change: of the fresh state.
    """

    @jax.jit
    def learn(costs: Any) -> tuple[Any, jax.Array]:
        init_key, loop_key, obs_key, act_key = jax.random.split(jax.random.key(0), 4)

        def step(state: Any, key: jax.Array) -> tuple[Any, None]:
            batch_key, update_key = jax.random.split(key)
            batch = bandit_rows(batch_key)
            batch = batch._replace(cost=jnp.where(costs, batch.cost, 0.0))
            return algorithm.update(update_key, algorithm.hyper, state, batch)[0], None

        fresh = change(algorithm.init(init_key, algorithm.hyper))
        state, _ = jax.lax.scan(step, fresh, jax.random.split(loop_key, steps))
        obs = jax.random.uniform(obs_key, (16, SIZE), minval=-1.0)
        given = (algorithm.initial_carry(), no_previous(1))
        return state, jax.vmap(
            lambda k, o: algorithm.act(k, algorithm.hyper, state, given[0], o, given[1])[0]
        )(jax.random.split(act_key, 16), obs)

    def learned(costs: bool) -> tuple[Any, np.ndarray]:
        state, actions = learn(costs)
        return state, np.asarray(actions)[:, 0]

    return learned


def check_proposals(algorithm: Algorithm, state: Any, n: int = 5) -> np.ndarray:
    """Proposed actions `[n, A]`, all different, within the range, and one executed action."""
    assert algorithm.sample_actions is not None
    act_key, sample_key = jax.random.split(jax.random.key(5))
    given = (algorithm.hyper, state, algorithm.initial_carry(), jnp.ones(SIZE))
    previous = no_previous(ACTIONS)
    found, carry = algorithm.sample_actions(sample_key, *given, previous, n)
    found = np.asarray(found)
    assert found.shape == (n, ACTIONS) and np.abs(found).max() <= 1.0 and carry == ()
    assert len(np.unique(found, axis=0)) == n
    action, carry = algorithm.act(act_key, *given, previous)
    assert action.shape == (ACTIONS,) and np.abs(np.asarray(action)).max() <= 1.0 and carry == ()
    return found


def with_hyper(algorithm: Algorithm, **values: float) -> Algorithm:
    """The algorithm with other hyperparameters; names of the multiplier's gains are found too."""
    hyper, pid = algorithm.hyper, getattr(algorithm.hyper, "pid", None)
    own = {n: jnp.float32(v) for n, v in values.items() if n in hyper._fields}
    gains = {n: jnp.float32(v) for n, v in values.items() if n not in own}
    if pid is not None:
        own["pid"] = pid._replace(**gains)
    else:
        assert not gains
    return algorithm._replace(hyper=hyper._replace(**own))


def with_part(state: Any, part: str, seed: int = 9) -> Any:
    """A state in which one network has other parameters."""
    rng = np.random.default_rng(seed)

    def other(x: Any) -> Any:
        return x + jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype)

    changed = jax.tree.map(other, state.params[part])
    return dataclasses.replace(state, params=state.params | {part: changed})


def check_rows_of_weight_zero(updated: Callable[[Any, Transition], Any], state: Any) -> None:
    """What rows of weight 0 hold does not matter for an update."""
    batch, rows = random_rows(), jnp.array([2, 8])
    weight = jnp.ones(10).at[rows].set(0.0)
    other = batch._replace(
        reward=batch.reward.at[rows].set(9.0),
        cost=batch.cost.at[rows].set(9.0),
        action=batch.action.at[rows].set(0.9),
        weight=weight,
    )
    found = [updated(state, rows)[0] for rows in (batch._replace(weight=weight), other)]
    same_leaves(*found)
