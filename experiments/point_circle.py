"""PointCircle1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_circle.py

Variants: `point_circle.py:quick`, `point_circle.py`, `point_circle.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              44.4 / 18.3 / 48% |
    | none         | planner |               41.6 / 0.2 / 98% |
    | proco        | none    |              42.1 / 10.9 / 65% |
    | proco        | planner |               39.3 / 1.6 / 98% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_circle", task="SafetyPointCircle1"))
    return set_variant(config, variant)
