"""CarButton1 from violation-free logs.

    python -m proco_jax.main --config=experiments/car_button.py

Variants: `car_button.py:quick`, `car_button.py`, `car_button.py:paper`. Results:
`docs/experiments.md`.

The variant `quick` before commit da57aea, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |           6.1 |       134.0 |                    5% |
    | proco        | none    |           3.7 |       116.1 |                    5% |
    | none         | planner |           1.3 |        28.2 |                   30% |
    | proco        | planner |           2.3 |        28.6 |                   50% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_button", task="SafetyCarButton1"))
    return set_variant(config, variant)
