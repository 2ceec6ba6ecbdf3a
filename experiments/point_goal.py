"""PointGoal1 from violation-free logs.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

First results, with `--config.algorithms="('proco','bc')" --config.seeds=2
--config.data.episodes=400 --config.dynamics.steps=4000`, 2 seeds x 20 episodes, as in the README;
mean ± standard deviation of the means of the seeds:

    | algorithm | augmentation | shield  | return, mean |  cost, mean | violation-free |
    | :-------- | :----------- | :------ | -----------: | ----------: | -------------: |
    | proco     | proco        | none    | 21.29 ± 1.18 |  30.4 ± 3.9 |   20% [10, 32] |
    | proco     | proco        | filter  | 17.81 ± 0.56 |  36.4 ± 4.7 |    18% [8, 30] |
    | proco     | proco        | planner |  8.97 ± 1.49 |   3.2 ± 4.5 |  98% [90, 100] |
    | proco     | none         | none    | 18.55 ± 1.59 |  36.9 ± 3.0 |   22% [10, 35] |
    | proco     | none         | filter  | 16.89 ± 0.26 |  25.4 ± 6.7 |   30% [18, 45] |
    | proco     | none         | planner |  9.84 ± 1.23 |   1.6 ± 2.3 |  98% [90, 100] |
    | bc        | proco        | none    | 16.53 ± 1.24 |  22.4 ± 1.7 |   30% [15, 45] |
    | bc        | proco        | filter  | 13.96 ± 1.66 |  23.6 ± 9.4 |   40% [25, 57] |
    | bc        | proco        | planner | 10.00 ± 1.08 |   1.1 ± 1.6 |  98% [90, 100] |
    | bc        | none         | none    | 14.66 ± 1.01 |  25.4 ± 1.4 |   25% [10, 40] |
    | bc        | none         | filter  | 13.00 ± 0.49 |  18.9 ± 8.6 |   38% [20, 55] |
    | bc        | none         | planner |  9.00 ± 0.07 |   0.0 ± 0.0 | 100% [100, 100] |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_goal", task="SafetyPointGoal1"))
    return set_variant(config, variant)
