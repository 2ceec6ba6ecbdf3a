"""PointButton1 from violation-free logs; no setting was tuned on this task.

    python -m proco_jax.main --config=experiments/point_button.py

Variants: `point_button.py:quick`, `point_button.py`, `point_button.py:paper`. Results:
`docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"
--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README: mean return, mean cost
and share of violation-free episodes:

    | augmentation | shield  | return, quick | cost, quick | violation-free, quick |
    | :----------- | :------ | ------------: | ----------: | --------------------: |
    | none         | none    |           2.6 |        57.6 |                   40% |
    | proco        | none    |           3.9 |        56.6 |                   10% |
    | none         | planner |           2.9 |         3.1 |                   80% |
    | proco        | planner |           2.2 |         3.1 |                   75% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_button", task="SafetyPointButton1"))
    return set_variant(config, variant)
