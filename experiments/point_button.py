"""PointButton1 from logs in which nothing ever went wrong; a task that nothing was tuned on.

    python -m proco_jax.main --config=experiments/point_button.py

Variants: `point_button.py:quick`, `point_button.py`, `point_button.py:paper`.
"""

from proco_jax.config import Config
from proco_jax.variants import set_variant


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="point_button", task="SafetyPointButton1")
    # Careless drivers seldom get through without a touch here: 0 is drawn once in six.
    config.data.collect.gains = (0.0, 1.0, 1.5, 2.0, 2.0, 3.0)
    config.data.episodes = 300
    # As on CarButton1: every centimeter of margin calls more of what touches unsafe.
    config.cost.margin = 0.0
    # As on CarButton1: gremlins take longer to learn than hazards.
    config.dynamics.steps = 10_000
    return set_variant(config, variant)
