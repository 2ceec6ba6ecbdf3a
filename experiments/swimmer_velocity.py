"""SwimmerVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/swimmer_velocity.py

Variants: `swimmer_velocity.py:quick`, `swimmer_velocity.py`, `swimmer_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_velocity(Config(experiment="swimmer_velocity", task="SafetySwimmerVelocity"))
    return set_variant(config, variant)
