"""CarGoal2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_goal_2.py

Variants: `car_goal_2.py:quick`, `car_goal_2.py`, `car_goal_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |                9.4 / 86.7 / 8% |
    | none         | planner |              10.1 / 0.0 / 100% |
    | proco        | none    |               9.6 / 92.0 / 12% |
    | proco        | planner |              11.0 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_goal_2", task="SafetyCarGoal2"))
    return set_variant(config, variant)
