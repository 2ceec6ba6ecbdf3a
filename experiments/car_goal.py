"""CarGoal1 from violation-free logs.

No setting was tuned on this task, but its results with other thresholds had been seen when the
default target violation rate was chosen on PointGoal1 and CarButton1.

    python -m proco_jax.main --config=experiments/car_goal.py

Variants: `car_goal.py:quick`, `car_goal.py`, `car_goal.py:paper`. Results: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              28.9 / 29.5 / 20% |
    | none         | planner |              23.7 / 0.0 / 100% |
    | proco        | none    |              29.2 / 38.8 / 17% |
    | proco        | planner |              23.7 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_goal", task="SafetyCarGoal1"))
    return set_variant(config, variant)
