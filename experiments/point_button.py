"""PointButton1 from logs in which nothing ever went wrong; a task that nothing was tuned on.

    python -m proco_jax.main --config=experiments/point_button.py

Variants: `point_button.py:quick`, `point_button.py`, `point_button.py:paper`.

Default variant, 5 seeds x 20 episodes: PROCO return 2.2 (IQM), cost 4.9, 53% of the episodes
violation-free; baseline return 8.1, cost 106.9, 0%. Source: results.json of the command
above; docs/method.md says of which commits.
"""

from proco_jax.config.presets import for_buttons, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_buttons(Config(experiment="point_button", task="SafetyPointButton1"))
    return set_variant(config, variant)
