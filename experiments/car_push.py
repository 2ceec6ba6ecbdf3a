"""CarPush1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_push.py

Variants: `car_push.py:quick`, `car_push.py`, `car_push.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              -1.1 / 18.6 / 65% |
    | none         | planner |              -1.5 / 0.0 / 100% |
    | proco        | none    |              -1.2 / 28.2 / 52% |
    | proco        | planner |              -0.3 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_push", task="SafetyCarPush1"))
    return set_variant(config, variant)
