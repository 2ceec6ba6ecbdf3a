"""CarGoal1 from logs in which nothing ever went wrong; a task that nothing was tuned on.

    python -m proco_jax.main --config=experiments/car_goal.py

Variants: `car_goal.py:quick`, `car_goal.py`, `car_goal.py:paper`.

Default variant, 5 seeds x 20 episodes: PROCO return 7.1 (IQM), cost 0.0, 96% of the episodes
violation-free; baseline return 18.5, cost 38.0, 18%. Source: results.json of the command
above; docs/method.md says of which commits.
"""

from proco_jax.config.presets import set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="car_goal", task="SafetyCarGoal1")
    # As on CarButton1: wheels and a free ball take longer to learn than a Point.
    config.dynamics.steps = 6000
    return set_variant(config, variant)
