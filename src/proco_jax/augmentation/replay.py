"""Fixed trajectories in place of imagined ones, for the oracle ladder (`ladder.py`).

It has no world in which a policy could act, so policies are regressed and not improved in
imagination: the ladder's rungs compare what regression makes of trajectories and labels.
"""

import jax.numpy as jnp

from proco_jax.augmentation import buffer
from proco_jax.augmentation.base import Augmentation, Context
from proco_jax.augmentation.proco import Hyper, imagined_count, imagined_rows, make_hyper
from proco_jax.config.schema import Config
from proco_jax.types import Array, Segment, ToGo, Transition


def make(config: Config) -> Augmentation:
    """The augmentation that draws rows from `WorldModel.trajectories`."""
    rows, n = imagined_rows(config), config.train.n_step

    def held(context: Context) -> buffer.Buffer:
        assert context.world is not None and context.world.trajectories is not None
        return context.world.trajectories

    def sample(key: Array, hyper: Hyper, context: Context, state: tuple) -> Transition:
        return buffer.sample(key, held(context), context.normalizer, rows, n, hyper.violating_share)

    def sample_segments(
        key: Array,
        hyper: Hyper,
        context: Context,
        state: tuple,
        to_go: ToGo,
        logged: int,
        length: int,
    ) -> Segment:
        logs = (context.data, to_go, context.normalizer)
        shape = (imagined_count(config, logged), length)
        return buffer.sample_segments(key, held(context), *logs, shape, hyper.violating_share)

    def cost(context: Context) -> Array:
        assert context.world is not None
        return jnp.maximum(context.data.cost, context.world.unsafe)

    return Augmentation(
        name="replay",
        hyper=make_hyper(config),
        rows=rows,
        warmup=0,
        init=lambda hyper, context, policy: (),
        refresh=lambda key, hyper, context, state, policy: (state, {}),
        cost=cost,
        sample=sample if rows else None,
        sample_segments=sample_segments if rows else None,
    )
