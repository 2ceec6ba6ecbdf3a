"""CarGoal1 from violation-free logs.

No setting was tuned on this task, but its results with other thresholds had been seen when the
default target violation rate was chosen on PointGoal1 and CarButton1.

    python -m proco_jax.main --config=experiments/car_goal.py

Variants: `car_goal.py:quick`, `car_goal.py`, `car_goal.py:paper`.

Results on logs of lidar controllers, with `--config.algorithms="('proco','bc')"`, 5 seeds x 20
episodes, as in the README; mean ± standard deviation of the means of the seeds, evaluated at commit
c6146cb:

    | algorithm | augmentation | shield  | return, mean | cost, mean  | violation-free |
    | :-------- | :----------- | :------ | -----------: | ----------: | -------------: |
    | proco     | proco        | none    | 15.90 ± 1.26 | 47.0 ± 14.4 |    17% [8, 28] |
    | proco     | proco        | filter  |  9.85 ± 1.98 |  13.2 ± 9.8 |   69% [54, 83] |
    | proco     | proco        | planner | 10.20 ± 2.24 |   5.1 ± 5.0 |   82% [71, 93] |
    | proco     | none         | none    | 16.60 ± 1.59 | 33.8 ± 11.3 |   25% [17, 34] |
    | proco     | none         | filter  | 10.62 ± 1.10 | 20.7 ± 13.4 |   72% [59, 86] |
    | proco     | none         | planner |  9.99 ± 1.13 |   7.1 ± 8.4 |   83% [73, 91] |
    | bc        | proco        | none    |  4.17 ± 2.92 |  25.9 ± 5.5 |   49% [37, 62] |
    | bc        | proco        | filter  |  2.77 ± 1.32 |   3.9 ± 6.6 |   90% [82, 98] |
    | bc        | proco        | planner |  3.12 ± 1.53 |   0.1 ± 0.1 |  98% [94, 100] |
    | bc        | none         | none    |  5.06 ± 2.82 | 28.1 ± 11.7 |   47% [33, 60] |
    | bc        | none         | filter  |  4.35 ± 1.90 |  6.8 ± 10.5 |   87% [79, 94] |
    | bc        | none         | planner |  4.27 ± 2.11 |   1.1 ± 1.6 |  97% [91, 100] |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_goal", task="SafetyCarGoal1"))
    return set_variant(config, variant)
