"""The control for PROCO: whatever is far from the logs counts as unsafe, without any knowledge.

Rollouts as in PROCO, with the same budget, but with persistent random actions in place of
risk-seeking ones, since there is no risk to seek. A state counts as unsafe if the ensemble
disagrees about it more than the limit at which PROCO's rollouts end, i.e. if the action left the
support of the logs. The logs keep their own costs. The difference between PROCO and this control
is the value of knowledge.

Source of the idea: in-distribution barrier functions (Castaneda et al. 2023), which separate logged
states from those that unlikely actions lead to.
"""

import functools

import jax.numpy as jnp

from proco_jax.augmentation.base import Augmentation, WorldModel
from proco_jax.augmentation.learned_world import learned_world
from proco_jax.augmentation.proco import make_imagining, rollout_model
from proco_jax.augmentation.rollouts import RolloutModel
from proco_jax.config.schema import Config
from proco_jax.models.networks import Critic, DynamicsNetwork


def make(config: Config, dynamics_net: DynamicsNetwork, cost_net: Critic) -> Augmentation:
    """The augmentation of a config."""

    def model_of(world: WorldModel) -> RolloutModel:
        model = rollout_model(dynamics_net, cost_net, world.dynamics, None, world.termination)
        limit = world.dynamics.limit
        # Rollouts go on beyond the limit, or no state beyond it would be kept. All sequences have
        # the same score, so the search takes the first one, which is random.
        return model._replace(unsafe=lambda obs, disagreement: disagreement > limit, limit=jnp.inf)

    world = functools.partial(learned_world, dynamics_net, cost_net)
    return make_imagining("control", config, model_of, lambda context: context.data.cost, world)
