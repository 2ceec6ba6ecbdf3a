"""The conservative cost network c(s'), distilled from labels of states.

It is conservative in four ways: the labels' margin is wider than the constraint, a missed unsafe
state has a larger weight than a false alarm, the output is an upper confidence bound over an
ensemble, and the threshold is calibrated for a stated recall on held-out labels. A network with
none of the four is the accurate one, in which policies are improved (`pipeline.world_model`).
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from proco_jax.config.schema import CostConfig, EncoderConfig
from proco_jax.models import losses
from proco_jax.models.networks import Critic, apply, make_encoder
from proco_jax.models.normalizer import Normalizer
from proco_jax.observation import ObservationSpec
from proco_jax.types import Array


class CostModel(NamedTuple):
    """A fitted cost network.

    Attributes:
      params: with leading axis `[E]`.
      normalizer: of the observations.
      ucb_coefficient: standard deviations added to the ensemble's mean logit.
      threshold: score from which a state counts as unsafe.
    """

    params: Any
    normalizer: Normalizer
    ucb_coefficient: Array
    threshold: Array


@struct.dataclass
class CostState:
    """State of the fit: parameters and optimizer with leading axis `[E]`, steps done, typed key."""

    params: Any
    optimizer: optax.OptState
    step: Array
    key: Array


class Labels(NamedTuple):
    """Labels on the device: normalized observations `[M, O]` and P(unsafe) `[M]`."""

    obs: Array
    unsafe: Array


def network(config: CostConfig, encoder_config: EncoderConfig, spec: ObservationSpec) -> Critic:
    """The network of one member: one logit a state."""
    return Critic(make_encoder(encoder_config, spec), config.hidden, 1)


def init(config: CostConfig, net: Critic, key: Array) -> CostState:
    """A fresh ensemble."""
    init_key, step_key = jax.random.split(key)
    obs = jnp.zeros(net.encoder.spec.size)
    params = jax.vmap(lambda k: net.init(k, obs))(jax.random.split(init_key, config.members))
    optimizer = jax.vmap(_optimizer(config).init)(params)
    return CostState(params, optimizer, jnp.int32(0), step_key)


def empty_model(config: CostConfig, net: Critic) -> CostModel:
    """A cost network of the structure and shapes of a fitted one, with arbitrary values."""
    params = init(config, net, jax.random.key(0)).params
    each = jnp.zeros(net.encoder.spec.size)
    return CostModel(params, Normalizer(each, each), jnp.zeros(()), jnp.zeros(()))


def update(
    config: CostConfig, net: Critic, labels: Labels, state: CostState
) -> tuple[CostState, dict[str, jax.Array]]:
    """One gradient step of every member, each on its own batch of labeled states."""
    key = jax.random.fold_in(state.key, state.step)
    shape = (config.members, config.batch)
    index = jax.random.randint(key, shape, 0, labels.unsafe.shape[0])
    optimizer = _optimizer(config)

    def loss(params: Any, obs: Array, unsafe: Array) -> jax.Array:
        logits = apply(net, params, obs)[..., 0]
        return jnp.mean(losses.weighted_cross_entropy(logits, unsafe, config.miss_weight))

    def step(params: Any, opt_state: Any, obs: Array, unsafe: Array) -> Any:
        value, grads = jax.value_and_grad(loss)(params, obs, unsafe)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    params, opt_state, value = jax.vmap(step)(
        state.params, state.optimizer, labels.obs[index], labels.unsafe[index]
    )
    state = CostState(params, opt_state, state.step + 1, state.key)
    return state, {"cost/loss": jnp.mean(value)}


def score(net: Critic, model: CostModel, obs: Array) -> jax.Array:
    """Upper confidence bound of the logit of "unsafe".

    Args:
      obs: `[..., O]` raw observations.

    Returns:
      `[...]` mean plus `ucb_coefficient` standard deviations over the ensemble.
    """
    logits = jax.vmap(functools.partial(apply, net), in_axes=(0, None))(
        model.params, model.normalizer(obs)
    )[..., 0]
    return jnp.mean(logits, axis=0) + model.ucb_coefficient * jnp.std(logits, axis=0)


def unsafe(net: Critic, model: CostModel, obs: Array) -> jax.Array:
    """Whether states `[..., O]` count as unsafe, `[...]` bool."""
    return score(net, model, obs) >= model.threshold


def conformal_threshold(unsafe_scores: np.ndarray, recall: float) -> float:
    """The largest threshold that finds new unsafe states with the stated recall.

    Split conformal prediction: with n exchangeable held-out scores of unsafe states, a threshold at
    the k-th smallest, k = floor((n + 1) (1 - recall)), misses a new one with probability at most
    1 - recall.

    Args:
      unsafe_scores: `[n]` scores of held-out states with the label unsafe.
      recall: in (0, 1).

    Raises:
      ValueError: if n is too small for that recall, naming how many are needed.
    """
    chex.assert_rank(unsafe_scores, 1)
    k = int(np.floor((len(unsafe_scores) + 1) * (1.0 - recall) + 1e-9))
    if k < 1:
        needed = int(np.ceil(1.0 / (1.0 - recall) - 1e-9)) - 1
        raise ValueError(
            f"a recall of {recall} cannot be calibrated on {len(unsafe_scores)} held-out unsafe "
            f"states, at least {needed} are needed: label more states "
            "(--config.knowledge.rule_states, or --config.knowledge.states where a language model "
            "labels states) or state a lower --config.cost.recall"
        )
    return float(np.sort(unsafe_scores)[k - 1])


def _optimizer(config: CostConfig) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
