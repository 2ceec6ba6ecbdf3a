"""PointGoal1 from violation-free logs.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

First results, with `--config.seeds=2 --config.data.episodes=400`, 2 seeds x 20 episodes, as in the
README; mean ± standard deviation of the means of the seeds:

    | algorithm | augmentation | shield  | return, mean |  cost, mean | violation-free  |
    | :-------- | :----------- | :------ | -----------: | ----------: | --------------: |
    | proco     | proco        | none    | 21.77 ± 1.03 |  42.9 ± 8.7 |     20% [8, 32] |
    | proco     | proco        | filter  | 18.10 ± 0.93 |  25.4 ± 0.6 |    30% [15, 48] |
    | proco     | proco        | planner | 12.06 ± 0.51 |   0.0 ± 0.0 | 100% [100, 100] |
    | proco     | none         | none    | 18.55 ± 1.59 |  36.9 ± 3.0 |    22% [10, 35] |
    | proco     | none         | filter  | 17.65 ± 1.26 | 28.3 ± 10.9 |     20% [5, 40] |
    | proco     | none         | planner | 12.06 ± 0.51 |   0.0 ± 0.0 | 100% [100, 100] |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_goal", task="SafetyPointGoal1"))
    return set_variant(config, variant)
