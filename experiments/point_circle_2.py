"""PointCircle2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/point_circle_2.py

Variants: `point_circle_2.py:quick`, `point_circle_2.py`, `point_circle_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              39.1 / 51.7 / 10% |
    | none         | planner |              37.2 / 0.0 / 100% |
    | proco        | none    |              37.1 / 17.8 / 50% |
    | proco        | planner |              35.2 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="point_circle_2", task="SafetyPointCircle2"))
    return set_variant(config, variant)
