"""All algorithms on PointGoal1 from violation-free logs, with and without PROCO and shields.

    python -m proco_jax.compare --config=experiments/compare_point_goal.py

Variants: `compare_point_goal.py:quick`, `compare_point_goal.py`, `compare_point_goal.py:paper`. How
to read the report: `docs/comparison.md`.
"""

from proco_jax.config.presets import for_comparison, for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="compare_point_goal", task="SafetyPointGoal1"))
    return for_comparison(set_variant(config, variant))
