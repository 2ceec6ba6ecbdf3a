"""PointButton1 from violation-free logs; no setting was tuned on this task.

    python -m proco_jax.main --config=experiments/point_button.py

Variants: `point_button.py:quick`, `point_button.py`, `point_button.py:paper`.

Results on logs of lidar controllers, with `--config.algorithms="('proco','bc')"`, 5 seeds x 20
episodes, as in the README; mean ± standard deviation of the means of the seeds, evaluated at commit
c6146cb:

    | algorithm | augmentation | shield  | return, mean | cost, mean   | violation-free |
    | :-------- | :----------- | :------ | -----------: | -----------: | -------------: |
    | proco     | proco        | none    |  7.85 ± 0.86 | 105.8 ± 22.4 |      0% [0, 0] |
    | proco     | proco        | filter  |  3.12 ± 1.07 |  28.8 ± 11.9 |   35% [19, 54] |
    | proco     | proco        | planner |  2.64 ± 0.85 |  14.6 ± 10.1 |   66% [55, 78] |
    | proco     | none         | none    |  8.92 ± 0.85 | 120.0 ± 11.3 |      0% [0, 0] |
    | proco     | none         | filter  |  3.94 ± 1.18 |  31.3 ± 14.5 |   30% [12, 50] |
    | proco     | none         | planner |  2.84 ± 0.30 |   16.3 ± 5.5 |   61% [49, 73] |
    | bc        | proco        | none    |  1.13 ± 0.94 |  43.3 ± 18.8 |   38% [27, 49] |
    | bc        | proco        | filter  |  0.24 ± 0.49 |    6.2 ± 1.7 |   76% [67, 85] |
    | bc        | proco        | planner |  0.15 ± 0.32 |    6.5 ± 7.1 |   86% [76, 95] |
    | bc        | none         | none    |  0.36 ± 0.60 |   31.1 ± 4.7 |   37% [27, 48] |
    | bc        | none         | filter  | -0.60 ± 0.57 |    5.5 ± 3.3 |   83% [74, 91] |
    | bc        | none         | planner | -0.62 ± 0.70 |    2.9 ± 1.9 |   84% [75, 92] |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_button", task="SafetyPointButton1"))
    return set_variant(config, variant)
