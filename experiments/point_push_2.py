"""PointPush2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_push_2.py

Variants: `point_push_2.py:quick`, `point_push_2.py`, `point_push_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |          -0.8 |        50.1 |                   30% |
    | proco        | none    |          -0.0 |        45.8 |                   40% |
    | none         | planner |          -1.5 |         2.2 |                   85% |
    | proco        | planner |          -1.2 |         3.1 |                   90% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_push_2", task="SafetyPointPush2"))
    return set_variant(config, variant)
