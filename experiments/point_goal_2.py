"""PointGoal2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_goal_2.py

Variants: `point_goal_2.py:quick`, `point_goal_2.py`, `point_goal_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |               4.9 / 58.8 / 17% |
    | none         | planner |               8.1 / 0.0 / 100% |
    | proco        | none    |               5.7 / 70.7 / 22% |
    | proco        | planner |                7.6 / 0.5 / 97% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_goal_2", task="SafetyPointGoal2"))
    return set_variant(config, variant)
