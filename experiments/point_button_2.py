"""PointButton2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_button_2.py

Variants: `point_button_2.py:quick`, `point_button_2.py`, `point_button_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |               0.6 / 88.4 / 15% |
    | none         | planner |                4.8 / 4.1 / 75% |
    | proco        | none    |              -0.1 / 79.3 / 13% |
    | proco        | planner |                5.8 / 5.3 / 67% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_button_2", task="SafetyPointButton2"))
    return set_variant(config, variant)
