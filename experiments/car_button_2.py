"""CarButton2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_button_2.py

Variants: `car_button_2.py:quick`, `car_button_2.py`, `car_button_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |             -1.0 / 121.8 / 15% |
    | none         | planner |              -0.5 / 20.8 / 45% |
    | proco        | none    |               1.8 / 98.3 / 20% |
    | proco        | planner |               1.5 / 22.9 / 50% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_button_2", task="SafetyCarButton2"))
    return set_variant(config, variant)
