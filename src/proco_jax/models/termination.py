"""Which states end an episode, learned from logs with true terminations, e.g. of falling robots.

The dynamics predict the state after a fall, but not that nothing follows it. A classifier of
states, fitted by a cross-entropy in which half of the rows are final states, says where imagination
has to stop. Its threshold is the upper `FALSE_SHARE` quantile of the logged states that did not end
an episode, or the median of those that did, if that is lower: imagined episodes seldom end too
early.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from proco_jax.models.adam_fit import adam_fit
from proco_jax.models.bonus import event_loss
from proco_jax.models.networks import apply
from proco_jax.models.normalizer import Normalizer
from proco_jax.types import Array, Dataset

# Logged states that did not end an episode, of which the model may say that they do.
FALSE_SHARE = 0.001
STEPS, BATCH, LEARNING_RATE = 1500, 256, 3e-3
# Of normalized observations: beyond, a network may answer anything.
CLIP = 10.0


class TerminationModel(NamedTuple):
    """A fitted classifier of states.

    Attributes:
      params: of the network.
      normalizer: of the observations.
      threshold: of the logit, above which a state ends the episode.
    """

    params: Any
    normalizer: Normalizer
    threshold: Array


class TerminationNetwork(nn.Module):
    """Logits `[...]` of clipped normalized observations `[..., O]`."""

    hidden: int = 64

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        x = nn.swish(nn.Dense(self.hidden)(obs))
        return nn.Dense(1)(nn.swish(nn.Dense(self.hidden)(x)))[..., 0]


def terminates(data: Dataset) -> np.ndarray:
    """Whether a logged transition truly ended its episode, `[N]` bool; a time limit does not."""
    return np.asarray(data.discount) == 0


def ends(model: TerminationModel, obs: Array) -> jax.Array:
    """Whether raw states `[..., O]` end an episode, `[...]` bool."""
    return _logit(model.params, model.normalizer, obs) > model.threshold


def fit(normalizer: Normalizer, data: Dataset, key: Array) -> TerminationModel:
    """Fits the classifier to the states that logged transitions lead to.

    Args:
      normalizer: of the observations.
      data: logs with a termination.
      key: typed key.

    Raises:
      ValueError: if no logged transition ends its episode, or all do.
    """
    over = terminates(data)
    final, others = np.flatnonzero(over), np.flatnonzero(~over)
    if not len(final) or not len(others):
        raise ValueError(f"terminations: found {len(final)} in {len(over)} transitions")
    after = data.obs[data.obs_index + 1]
    params = jax.jit(_fit_params)(normalizer, after, jnp.asarray(final), jnp.asarray(others), key)
    logit = np.asarray(jax.jit(_logit)(params, normalizer, after))
    usual, last = np.quantile(logit[others], 1 - FALSE_SHARE), np.median(logit[final])
    return TerminationModel(params, normalizer, jnp.float32(min(usual, last)))


def empty_model(observations: int) -> TerminationModel:
    """A model of the structure and shapes of a fitted one, for O numbers in an observation."""
    each = jnp.zeros(observations)
    params = TerminationNetwork().init(jax.random.key(0), each)
    return TerminationModel(params, Normalizer(each, each), jnp.zeros(()))


def _fit_params(normalizer: Normalizer, obs: Array, final: Array, others: Array, key: Array) -> Any:
    """Fitted parameters; rows `final` of `obs [N, O]` end an episode, rows `others` do not."""
    half = BATCH // 2
    over, weight = jnp.arange(BATCH) < half, jnp.full(BATCH, 1.0 / BATCH)

    def loss(params: Any, key: Array) -> jax.Array:
        final_key, other_key = jax.random.split(key)
        index = jnp.concatenate(
            [
                final[jax.random.randint(final_key, (half,), 0, final.shape[0])],
                others[jax.random.randint(other_key, (half,), 0, others.shape[0])],
            ]
        )
        return event_loss(_logit(params, normalizer, obs[index]), over, weight)

    init_key, step_key = jax.random.split(key)
    params = TerminationNetwork().init(init_key, obs[0])
    return adam_fit(loss, params, LEARNING_RATE, jax.random.split(step_key, STEPS))


def _logit(params: Any, normalizer: Normalizer, obs: Array) -> jax.Array:
    rows = jnp.clip(normalizer(obs), -CLIP, CLIP)
    return apply(TerminationNetwork(), params, rows)
