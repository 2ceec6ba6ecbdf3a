"""PointPush1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_push.py

Variants: `point_push.py:quick`, `point_push.py`, `point_push.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_push", task="SafetyPointPush1"))
    return set_variant(config, variant)
