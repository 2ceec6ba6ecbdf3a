"""PointGoal1 from violation-free logs.

    python -m proco_jax.main --config=experiments/point_goal.py

Variants: `point_goal.py:quick`, `point_goal.py`, `point_goal.py:paper`.

Results with `--config.algorithms="('proco','bc')"`, 5 seeds x 20 episodes, as in the README;
mean ± standard deviation of the means of the seeds, evaluated at commit c08c514:

    | algorithm | augmentation | shield  | return, mean | cost, mean  | violation-free |
    | :-------- | :----------- | :------ | -----------: | ----------: | -------------: |
    | proco     | proco        | none    | 14.29 ± 0.45 | 70.7 ± 10.3 |    17% [8, 27] |
    | proco     | proco        | filter  |  8.42 ± 1.67 | 21.3 ± 13.7 |   57% [45, 68] |
    | proco     | proco        | planner |  6.79 ± 1.19 |   4.0 ± 6.1 |   89% [81, 96] |
    | proco     | none         | none    | 14.24 ± 0.63 | 57.0 ± 12.6 |    15% [5, 27] |
    | proco     | none         | filter  |  7.99 ± 1.01 |  16.2 ± 6.9 |   58% [46, 69] |
    | proco     | none         | planner |  7.08 ± 1.15 |   3.9 ± 5.8 |   87% [78, 94] |
    | bc        | proco        | none    |  4.84 ± 0.49 |  28.7 ± 9.6 |   56% [46, 66] |
    | bc        | proco        | filter  |  4.04 ± 0.58 |  8.8 ± 16.8 |   89% [77, 98] |
    | bc        | proco        | planner |  4.04 ± 0.70 |   4.2 ± 9.0 |  96% [89, 100] |
    | bc        | none         | none    |  5.04 ± 0.47 | 38.4 ± 13.8 |   55% [41, 68] |
    | bc        | none         | filter  |  4.16 ± 0.76 |  7.8 ± 17.2 |  89% [68, 100] |
    | bc        | none         | planner |  3.88 ± 0.67 |   2.3 ± 5.1 |  94% [81, 100] |
"""

from proco_jax.config.presets import set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="point_goal", task="SafetyPointGoal1")
    return set_variant(config, variant)
