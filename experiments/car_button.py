"""CarButton1 from violation-free logs.

    python -m proco_jax.main --config=experiments/car_button.py

Variants: `car_button.py:quick`, `car_button.py`, `car_button.py:paper`. Results:
`docs/experiments.md`.
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_button", task="SafetyCarButton1"))
    return set_variant(config, variant)
