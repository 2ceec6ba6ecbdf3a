"""CarPush2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_push_2.py

Variants: `car_push_2.py:quick`, `car_push_2.py`, `car_push_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              -5.8 / 31.5 / 52% |
    | none         | planner |              -6.6 / 0.0 / 100% |
    | proco        | none    |              -4.5 / 43.2 / 42% |
    | proco        | planner |              -6.8 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_push_2", task="SafetyCarPush2"))
    return set_variant(config, variant)
