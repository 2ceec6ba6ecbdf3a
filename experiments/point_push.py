"""PointPush1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_push.py

Variants: `point_push.py:quick`, `point_push.py`, `point_push.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |          -1.3 |        14.2 |                   60% |
    | proco        | none    |          -2.0 |         7.7 |                   75% |
    | none         | planner |          -2.1 |         0.8 |                   90% |
    | proco        | planner |          -2.2 |         0.9 |                   90% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_push", task="SafetyPointPush1"))
    return set_variant(config, variant)
