"""PointButton2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_button_2.py

Variants: `point_button_2.py:quick`, `point_button_2.py`, `point_button_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |           0.2 |        83.8 |                   20% |
    | proco        | none    |           0.0 |        72.5 |                    5% |
    | none         | planner |           0.6 |         4.0 |                   70% |
    | proco        | planner |          -0.2 |         5.2 |                   75% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_button_2", task="SafetyPointButton2"))
    return set_variant(config, variant)
