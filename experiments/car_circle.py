"""CarCircle1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_circle.py

Variants: `car_circle.py:quick`, `car_circle.py`, `car_circle.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              15.9 / 107.0 / 8% |
    | none         | planner |               13.8 / 2.1 / 97% |
    | proco        | none    |             14.8 / 104.1 / 32% |
    | proco        | planner |               14.0 / 0.7 / 97% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_circle", task="SafetyCarCircle1"))
    return set_variant(config, variant)
