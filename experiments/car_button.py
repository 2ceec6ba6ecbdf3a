"""CarButton1 from logs in which nothing ever went wrong.

    python -m proco_jax.main --config=experiments/car_button.py

Variants: `car_button.py:quick`, `car_button.py`, `car_button.py:paper`.

Default variant, 5 seeds x 20 episodes: PROCO return 2.0 (IQM), cost 13.2, 42% of the episodes
violation-free; baseline return 8.8, cost 150.9, 3%. Source: results.json of the command
above; docs/method.md says of which commits.
"""

from proco_jax.config.presets import for_buttons, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_buttons(Config(experiment="car_button", task="SafetyCarButton1"))
    return set_variant(config, variant)
