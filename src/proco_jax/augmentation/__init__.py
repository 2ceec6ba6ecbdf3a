"""Augmentations of training batches: none, PROCO, its control, fixed trajectories."""

from proco_jax.augmentation import control, fixed_trajectories, none, proco
from proco_jax.augmentation.base import Augmentation
from proco_jax.config.schema import Config
from proco_jax.models.networks import Critic, DynamicsNetwork


def make_augmentation(
    name: str, config: Config, dynamics_net: DynamicsNetwork, cost_net: Critic
) -> Augmentation:
    """The augmentation of a name: `none`, `proco`, `control` or `fixed_trajectories`.

    Raises:
      ValueError: on another name.
    """
    if name == "none":
        return none.make()
    if name == "proco":
        return proco.make(config, dynamics_net, cost_net)
    if name == "control":
        return control.make(config, dynamics_net, cost_net)
    if name == "fixed_trajectories":
        return fixed_trajectories.make(config)
    raise ValueError(
        f"augmentation: found {name!r}, expected none, proco, control or fixed_trajectories"
    )
