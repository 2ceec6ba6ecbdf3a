"""AntVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/ant_velocity.py

Variants: `ant_velocity.py:quick`, `ant_velocity.py`, `ant_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_velocity(Config(experiment="ant_velocity", task="SafetyAntVelocity"))
    return set_variant(config, variant)
