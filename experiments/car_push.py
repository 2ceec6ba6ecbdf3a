"""CarPush1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_push.py

Variants: `car_push.py:quick`, `car_push.py`, `car_push.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` before commit da57aea, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |          -6.9 |        12.8 |                   70% |
    | proco        | none    |          -6.6 |        15.2 |                   65% |
    | none         | planner |          -5.4 |         0.0 |                  100% |
    | proco        | planner |          -4.0 |         0.0 |                  100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_push", task="SafetyCarPush1"))
    return set_variant(config, variant)
