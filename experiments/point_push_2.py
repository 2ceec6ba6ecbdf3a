"""PointPush2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_push_2.py

Variants: `point_push_2.py:quick`, `point_push_2.py`, `point_push_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              -1.0 / 47.4 / 27% |
    | none         | planner |               -2.5 / 0.5 / 87% |
    | proco        | none    |              -0.3 / 52.3 / 30% |
    | proco        | planner |               -1.6 / 0.3 / 90% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_push_2", task="SafetyPointPush2"))
    return set_variant(config, variant)
