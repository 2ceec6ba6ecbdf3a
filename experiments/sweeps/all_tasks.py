"""PROCO's own algorithm and behavior cloning on all 21 tasks, without shield and under the planner.

    python -m proco_jax.sweep --sweep=experiments/sweeps/all_tasks.py --workdir=ROOT

42 units; on several machines, `--shard=i/n` or the files in `experiments/launch/`. Variants of the
experiments: `all_tasks.py:quick`, `all_tasks.py`, `all_tasks.py:paper`.
"""

from proco_jax.sweeps.description import Sweep

NAVIGATION = ("goal", "goal_2", "button", "button_2", "push", "push_2", "circle", "circle_2")
VELOCITY = ("ant", "half_cheetah", "hopper", "swimmer", "walker2d")


def get_sweep(variant: str = "default") -> Sweep:
    """The sweep; variants as those of the experiments."""
    return Sweep(
        experiments=(
            *(f"{robot}_{task}" for robot in ("point", "car") for task in NAVIGATION),
            *(f"{robot}_velocity" for robot in VELOCITY),
        ),
        variant=variant,
        algorithms=("proco", "bc"),
        augmentations=("proco", "none"),
        shields=("none", "planner"),
        settings={"evaluation.episodes": 20},
        seeds=3,
    )
