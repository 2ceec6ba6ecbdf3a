"""PointButton1 from violation-free logs; no setting was tuned on this task.

    python -m proco_jax.main --config=experiments/point_button.py

Variants: `point_button.py:quick`, `point_button.py`, `point_button.py:paper`. Results:
`docs/experiments.md`.

The variant `quick` before commit da57aea, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |           2.8 |        61.8 |                   10% |
    | proco        | none    |           2.9 |       109.4 |                    5% |
    | none         | planner |           3.2 |         6.1 |                   60% |
    | proco        | planner |           1.6 |         1.3 |                   85% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_button", task="SafetyPointButton1"))
    return set_variant(config, variant)
