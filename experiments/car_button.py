"""CarButton1 from logs in which nothing ever went wrong.

    python -m proco_jax.main --config=experiments/car_button.py

Variants: `car_button.py:quick`, `car_button.py`, `car_button.py:paper`.

Default variant at commit cbb9e08, seeds 0 to 4, 20 episodes each: PROCO return 1.8
(IQM), cost 18.9, 29% of the episodes violation-free; baseline return 9.1, cost 158.9, 1%.
Source: results.json of the command above.
"""

from proco_jax.config import Config
from proco_jax.variants import set_variant


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="car_button", task="SafetyCarButton1")
    # Careless drivers seldom get through without a touch here: 0 is drawn once in six.
    config.data.collect.gains = (0.0, 1.0, 1.5, 2.0, 2.0, 3.0)
    config.data.episodes = 300
    # A robot that leans on a wrong button bounces: it touches in one step of three, at distances
    # that no rule can tell apart, and every centimeter of margin calls more of them unsafe.
    config.cost.margin = 0.0
    # Wheels, a free ball and gremlins take longer to learn than a Point among hazards.
    config.dynamics.steps = 10_000
    return set_variant(config, variant)
