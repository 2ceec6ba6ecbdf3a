"""No augmentation: logged rows with the costs of the logs."""

from proco_jax.augmentation.base import Augmentation


def make() -> Augmentation:
    """The augmentation that adds nothing."""
    return Augmentation(
        name="none",
        hyper=(),
        rows=0,
        warmup=0,
        init=lambda hyper, context, policy: (),
        refresh=lambda key, hyper, context, state, policy: (state, {}),
        cost=lambda context: context.data.cost,
        sample=None,
        sample_segments=None,
    )
