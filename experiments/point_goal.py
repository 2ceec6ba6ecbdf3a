"""PointGoal1 from logs in which nothing ever went wrong.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

@RECORD@
"""

from proco_jax.config import Config
from proco_jax.variants import set_variant


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="point_goal", task="SafetyPointGoal1")
    return set_variant(config, variant)
