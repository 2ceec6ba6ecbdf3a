"""PointGoal1 from violation-free logs.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

First results, with `--config.seeds=2 --config.data.episodes=400`, 2 seeds x 20 episodes, as in the
README; mean ± standard deviation of the means of the seeds:

    | algorithm | augmentation | shield  | return, mean | cost, mean | violation-free  |
    | :-------- | :----------- | :------ | -----------: | ---------: | --------------: |
    | proco     | proco        | none    | 21.64 ± 0.14 | 33.9 ± 0.5 |     18% [5, 30] |
    | proco     | proco        | filter  | 16.85 ± 2.57 | 19.1 ± 3.1 |    30% [12, 50] |
    | proco     | proco        | planner | 11.40 ± 0.34 |  0.0 ± 0.0 | 100% [100, 100] |
    | proco     | none         | none    | 18.55 ± 1.59 | 36.9 ± 3.0 |    22% [10, 35] |
    | proco     | none         | filter  | 19.02 ± 0.73 | 19.7 ± 3.3 |    32% [18, 48] |
    | proco     | none         | planner | 13.26 ± 0.71 |  0.0 ± 0.0 | 100% [100, 100] |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_goal", task="SafetyPointGoal1"))
    return set_variant(config, variant)
