"""PointGoal1 from violation-free logs.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

First results, with `--config.algorithms="('proco','bc')" --config.seeds=2
--config.data.episodes=400 --config.dynamics.steps=4000`, 2 seeds x 20 episodes, as in the README;
mean ± standard deviation of the means of the seeds:

    | algorithm | augmentation | shield  | return, mean |  cost, mean | violation-free |
    | :-------- | :----------- | :------ | -----------: | ----------: | -------------: |
    | proco     | proco        | none    | 20.80 ± 1.39 |  22.8 ± 4.7 |    22% [8, 40] |
    | proco     | proco        | filter  | 17.71 ± 1.44 | 27.5 ± 13.8 |   25% [12, 40] |
    | proco     | proco        | planner | 10.67 ± 1.38 |   0.4 ± 0.6 |  98% [90, 100] |
    | proco     | none         | none    | 21.85 ± 2.12 |  31.5 ± 1.8 |    18% [5, 30] |
    | proco     | none         | filter  | 19.01 ± 1.16 | 34.1 ± 16.0 |    18% [8, 30] |
    | proco     | none         | planner | 10.02 ± 0.59 |   0.0 ± 0.0 | 100% [100, 100] |
    | bc        | proco        | none    | 16.96 ± 1.41 |  28.8 ± 8.2 |   28% [15, 42] |
    | bc        | proco        | filter  | 13.53 ± 0.72 | 33.1 ± 19.9 |   40% [15, 65] |
    | bc        | proco        | planner | 10.41 ± 0.72 |   1.8 ± 2.6 |  98% [90, 100] |
    | bc        | none         | none    | 16.04 ± 1.39 |  22.6 ± 1.5 |   35% [20, 52] |
    | bc        | none         | filter  | 12.70 ± 1.62 |  30.7 ± 1.7 |   30% [12, 50] |
    | bc        | none         | planner |  8.74 ± 0.52 |   1.1 ± 1.6 |  98% [90, 100] |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_goal", task="SafetyPointGoal1"))
    return set_variant(config, variant)
