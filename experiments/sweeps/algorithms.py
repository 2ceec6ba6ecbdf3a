"""All algorithms on four tasks, with and without PROCO, under all shields.

    python -m proco_jax.sweep --sweep=experiments/sweeps/algorithms.py --workdir=ROOT

28 units; on several machines, `--shard=i/n` or the files in `experiments/launch/`. Variants of the
experiments: `algorithms.py:quick`, `algorithms.py`, `algorithms.py:paper`.
"""

from proco_jax.config.schema import ALGORITHMS
from proco_jax.sweeps.description import Sweep


def get_sweep(variant: str = "default") -> Sweep:
    """The sweep; variants as those of the experiments."""
    return Sweep(
        experiments=("point_goal", "car_goal", "point_button", "car_button"),
        variant=variant,
        algorithms=ALGORITHMS,
        augmentations=("proco", "none"),
        seeds=5,
    )
