"""PointGoal1 from logs in which nothing ever went wrong.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

Default variant, 5 seeds x 20 episodes: PROCO return 5.4 (IQM), cost 0.0, 99% of the episodes
violation-free; baseline return 14.9, cost 47.7, 7%. Source: results.json of the command
above; docs/method.md says of which commits.
"""

from proco_jax.config.presets import set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="point_goal", task="SafetyPointGoal1")
    return set_variant(config, variant)
