"""PointGoal1 from violation-free logs.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

First results, with `--config.seeds=2 --config.data.episodes=400`, 2 seeds x 20 episodes, as in the
README; mean ± standard deviation of the means of the seeds:

    | algorithm | augmentation | shield  | return, mean |  cost, mean | violation-free  |
    | :-------- | :----------- | :------ | -----------: | ----------: | --------------: |
    | proco     | proco        | none    | 20.78 ± 0.84 | 46.5 ± 13.9 |     12% [2, 25] |
    | proco     | proco        | filter  | 12.13 ± 1.32 |  10.6 ± 1.8 |    45% [28, 62] |
    | proco     | proco        | planner | 12.66 ± 0.95 |   0.0 ± 0.0 | 100% [100, 100] |
    | proco     | none         | none    | 18.55 ± 1.59 |  36.9 ± 3.0 |    22% [10, 35] |
    | proco     | none         | filter  | 16.21 ± 0.29 |  18.2 ± 4.1 |    38% [22, 52] |
    | proco     | none         | planner | 13.67 ± 0.35 |   1.9 ± 2.7 |   98% [90, 100] |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_goal", task="SafetyPointGoal1"))
    return set_variant(config, variant)
