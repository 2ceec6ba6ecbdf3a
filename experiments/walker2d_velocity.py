"""Walker2dVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/walker2d_velocity.py

Variants: `walker2d_velocity.py:quick`, `walker2d_velocity.py`, `walker2d_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_velocity(Config(experiment="walker2d_velocity", task="SafetyWalker2dVelocity"))
    return set_variant(config, variant)
