"""The smallest sweep: 2 algorithms x 2 values of a hyperparameter x 2 seeds, in minutes.

python -m proco_jax.sweep --sweep=experiments/sweeps/quick.py --workdir=runs/quick
python -m proco_jax.report --sweep=runs/quick
"""

from proco_jax.sweeps.description import Sweep


def get_sweep() -> Sweep:
    """The sweep: both values and both seeds of an algorithm are members of one program."""
    return Sweep(
        experiments=("point_goal",),
        variant="quick",
        algorithms=("proco", "bc"),
        augmentations=("proco",),
        shields=("none", "planner"),
        hyperparameters={"proco.learning_rate": (3e-4, 1e-3), "bc.learning_rate": (3e-4, 1e-3)},
        seeds=2,
    )
