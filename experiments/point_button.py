"""PointButton1 from violation-free logs; no setting was tuned on this task.

    python -m proco_jax.main --config=experiments/point_button.py

Variants: `point_button.py:quick`, `point_button.py`, `point_button.py:paper`. Results:
`docs/experiments.md`.
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_button", task="SafetyPointButton1"))
    return set_variant(config, variant)
