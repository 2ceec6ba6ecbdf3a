"""PointGoal1 from logs in which nothing ever went wrong.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

Default variant at commit ae2a2dc, seeds 0 to 4, 20 episodes each: PROCO return 4.3
(IQM), cost 0.0, 96% of the episodes violation-free; baseline return 14.7, cost 52.4, 9%.
Source: results.json of the command above.
"""

from proco_jax.config import Config
from proco_jax.variants import set_variant


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="point_goal", task="SafetyPointGoal1")
    return set_variant(config, variant)
