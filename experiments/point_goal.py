"""PointGoal1 from violation-free logs.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

First results, with `--config.algorithms="('proco','bc')" --config.seeds=2
--config.data.episodes=400`, 2 seeds x 20 episodes, as in the README; mean ± standard deviation of
the means of the seeds:

    | algorithm | augmentation | shield  | return, mean |  cost, mean | violation-free  |
    | :-------- | :----------- | :------ | -----------: | ----------: | --------------: |
    | proco     | proco        | none    | 18.32 ± 2.38 |  28.2 ± 2.4 |     15% [2, 30] |
    | proco     | proco        | filter  | 15.00 ± 0.61 |  18.6 ± 4.3 |    32% [18, 48] |
    | proco     | proco        | planner |  9.76 ± 0.48 |   0.0 ± 0.0 | 100% [100, 100] |
    | proco     | none         | none    | 18.55 ± 1.59 |  36.9 ± 3.0 |    22% [10, 35] |
    | proco     | none         | filter  | 15.04 ± 0.29 |  16.5 ± 0.5 |    38% [18, 60] |
    | proco     | none         | planner | 10.68 ± 0.03 |   0.0 ± 0.0 | 100% [100, 100] |
    | bc        | proco        | none    | 13.70 ± 0.97 | 36.5 ± 16.4 |    28% [10, 45] |
    | bc        | proco        | filter  | 13.54 ± 0.64 |  17.0 ± 3.0 |    38% [22, 52] |
    | bc        | proco        | planner |  8.77 ± 0.29 |   0.0 ± 0.0 | 100% [100, 100] |
    | bc        | none         | none    | 14.66 ± 1.01 |  25.4 ± 1.4 |    25% [10, 40] |
    | bc        | none         | filter  | 12.56 ± 0.95 |  12.6 ± 7.6 |    55% [35, 75] |
    | bc        | none         | planner |  9.36 ± 1.38 |   0.0 ± 0.0 | 100% [100, 100] |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_goal", task="SafetyPointGoal1"))
    return set_variant(config, variant)
