"""CarButton1 from violation-free logs.

    python -m proco_jax.main --config=experiments/car_button.py

Variants: `car_button.py:quick`, `car_button.py`, `car_button.py:paper`. Results:
`docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              4.4 / 122.3 / 10% |
    | none         | planner |               3.0 / 22.4 / 50% |
    | proco        | none    |               3.9 / 70.5 / 35% |
    | proco        | planner |               2.5 / 18.5 / 50% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_button", task="SafetyCarButton1"))
    return set_variant(config, variant)
