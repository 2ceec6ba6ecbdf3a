"""PointButton1 from violation-free logs; no setting was tuned on this task.

    python -m proco_jax.main --config=experiments/point_button.py

Variants: `point_button.py:quick`, `point_button.py`, `point_button.py:paper`. Results:
`docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |               2.4 / 46.5 / 38% |
    | none         | planner |                5.6 / 3.3 / 65% |
    | proco        | none    |               2.9 / 49.9 / 18% |
    | proco        | planner |                6.5 / 3.9 / 63% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_button", task="SafetyPointButton1"))
    return set_variant(config, variant)
