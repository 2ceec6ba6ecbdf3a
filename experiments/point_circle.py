"""PointCircle1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_circle.py

Variants: `point_circle.py:quick`, `point_circle.py`, `point_circle.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |          44.4 |        16.9 |                   60% |
    | proco        | none    |          42.5 |        12.1 |                   65% |
    | none         | planner |          40.6 |         0.0 |                  100% |
    | proco        | planner |          40.9 |         0.0 |                  100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_circle", task="SafetyPointCircle1"))
    return set_variant(config, variant)
