"""Fixed trajectories in place of imagined ones, for the oracle ladder (`ladder.py`).

It has no world in which a policy could act, so policies are regressed and not improved in
imagination: the ladder's rungs compare what regression makes of trajectories and labels.
"""

import jax.numpy as jnp

from proco_jax.augmentation import buffer
from proco_jax.augmentation.base import Augmentation, Context
from proco_jax.augmentation.proco import make_hyper, make_samplers
from proco_jax.config.schema import Config
from proco_jax.types import Array


def make(config: Config) -> Augmentation:
    """The augmentation that draws rows from `WorldModel.trajectories`."""

    def held(context: Context, state: tuple) -> buffer.Buffer:
        assert context.world is not None and context.world.trajectories is not None
        return context.world.trajectories

    sample, sample_segments = make_samplers(config, held)

    def cost(context: Context) -> Array:
        assert context.world is not None
        return jnp.maximum(context.data.cost, context.world.unsafe)

    return Augmentation(
        name="fixed_trajectories",
        hyper=make_hyper(config),
        rows=buffer.imagined_rows(config),
        warmup=0,
        init=lambda hyper, context, policy: (),
        refresh=lambda key, hyper, context, state, policy: (state, {}),
        cost=cost,
        sample=sample,
        sample_segments=sample_segments,
    )
