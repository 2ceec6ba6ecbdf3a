"""PointCircle2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_circle_2.py

Variants: `point_circle_2.py:quick`, `point_circle_2.py`, `point_circle_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              38.7 / 63.2 / 17% |
    | none         | planner |              36.3 / 0.0 / 100% |
    | proco        | none    |              37.2 / 17.1 / 55% |
    | proco        | planner |               35.6 / 0.6 / 98% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_circle_2", task="SafetyPointCircle2"))
    return set_variant(config, variant)
