"""All algorithms on CarGoal1 from violation-free logs, with and without PROCO and shields.

    python -m proco_jax.compare --config=experiments/compare_car_goal.py

Variants: `compare_car_goal.py:quick`, `compare_car_goal.py`, `compare_car_goal.py:paper`. How to
read the report: `docs/comparison.md`.
"""

from proco_jax.config.presets import for_comparison, for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="compare_car_goal", task="SafetyCarGoal1"))
    return for_comparison(set_variant(config, variant))
