"""CarGoal2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_goal_2.py

Variants: `car_goal_2.py:quick`, `car_goal_2.py`, `car_goal_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` before commit da57aea, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |          -3.6 |        42.8 |                   25% |
    | proco        | none    |          -1.8 |        67.6 |                   20% |
    | none         | planner |          -4.8 |         0.0 |                  100% |
    | proco        | planner |          -5.0 |         0.0 |                  100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_goal_2", task="SafetyCarGoal2"))
    return set_variant(config, variant)
