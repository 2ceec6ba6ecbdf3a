"""PointCircle2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_circle_2.py

Variants: `point_circle_2.py:quick`, `point_circle_2.py`, `point_circle_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_circle_2", task="SafetyPointCircle2"))
    return set_variant(config, variant)
