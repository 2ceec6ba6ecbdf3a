"""CarPush2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_push_2.py

Variants: `car_push_2.py:quick`, `car_push_2.py`, `car_push_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              -3.7 / 49.1 / 45% |
    | none         | planner |              -5.6 / 0.0 / 100% |
    | proco        | none    |              -4.1 / 30.5 / 30% |
    | proco        | planner |              -7.2 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_push_2", task="SafetyCarPush2"))
    return set_variant(config, variant)
