"""HalfCheetahVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/half_cheetah_velocity.py

Variants: `half_cheetah_velocity.py:quick`, `half_cheetah_velocity.py`,
`half_cheetah_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_velocity(
        Config(experiment="half_cheetah_velocity", task="SafetyHalfCheetahVelocity")
    )
    return set_variant(config, variant)
