"""CarCircle1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_circle.py

Variants: `car_circle.py:quick`, `car_circle.py`, `car_circle.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_circle", task="SafetyCarCircle1"))
    return set_variant(config, variant)
