"""CarGoal1 from violation-free logs.

No setting was tuned on this task, but its results with other thresholds had been seen when the
default target violation rate was chosen on PointGoal1 and CarButton1.

    python -m proco_jax.main --config=experiments/car_goal.py

Variants: `car_goal.py:quick`, `car_goal.py`, `car_goal.py:paper`. Results: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |          27.9 |        45.3 |                    5% |
    | proco        | none    |          28.2 |        52.8 |                    5% |
    | none         | planner |          24.2 |         0.0 |                  100% |
    | proco        | planner |          23.2 |         0.0 |                  100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_goal", task="SafetyCarGoal1"))
    return set_variant(config, variant)
