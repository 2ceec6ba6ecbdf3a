"""64 members of one program: 16 seeds x 4 learning rates of PROCO's actor-critic.

python -m proco_jax.sweep --sweep=experiments/sweeps/hyperparameters.py --workdir=ROOT
"""

from proco_jax.sweeps.description import Sweep


def get_sweep(variant: str = "default") -> Sweep:
    """The sweep; variants as those of the experiments."""
    return Sweep(
        experiments=("point_goal",),
        variant=variant,
        algorithms=("proco",),
        augmentations=("proco",),
        shields=("none", "planner"),
        hyperparameters={"proco.learning_rate": (1e-4, 3e-4, 1e-3, 3e-3)},
        seeds=16,
    )
