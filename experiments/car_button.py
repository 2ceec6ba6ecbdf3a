"""CarButton1 from logs in which nothing ever went wrong.

    python -m proco_jax.main --config=experiments/car_button.py

Variants: `car_button.py:quick`, `car_button.py`, `car_button.py:paper`.

Default variant at commit ae2a2dc, seeds 0 to 4, 20 episodes each: PROCO return 2.5
(IQM), cost 12.2, 35% of the episodes violation-free; baseline return 10.7, cost 154.5, 3%.
Source: results.json of the command above.
"""

from proco_jax.config import Config
from proco_jax.variants import for_buttons, set_variant


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_buttons(Config(experiment="car_button", task="SafetyCarButton1"))
    return set_variant(config, variant)
