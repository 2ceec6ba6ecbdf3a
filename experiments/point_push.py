"""PointPush1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_push.py

Variants: `point_push.py:quick`, `point_push.py`, `point_push.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              -1.6 / 17.7 / 52% |
    | none         | planner |               -0.9 / 0.7 / 93% |
    | proco        | none    |              -1.5 / 16.5 / 67% |
    | proco        | planner |               -1.4 / 1.1 / 88% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_push", task="SafetyPointPush1"))
    return set_variant(config, variant)
