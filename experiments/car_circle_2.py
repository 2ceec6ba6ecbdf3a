"""CarCircle2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_circle_2.py

Variants: `car_circle_2.py:quick`, `car_circle_2.py`, `car_circle_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              13.4 / 29.6 / 52% |
    | none         | planner |              11.8 / 0.0 / 100% |
    | proco        | none    |              13.2 / 35.9 / 55% |
    | proco        | planner |              11.6 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_circle_2", task="SafetyCarCircle2"))
    return set_variant(config, variant)
