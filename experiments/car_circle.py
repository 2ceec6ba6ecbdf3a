"""CarCircle1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_circle.py

Variants: `car_circle.py:quick`, `car_circle.py`, `car_circle.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              15.6 / 122.9 / 5% |
    | none         | planner |              15.6 / 0.0 / 100% |
    | proco        | none    |             14.6 / 141.3 / 20% |
    | proco        | planner |              14.8 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_circle", task="SafetyCarCircle1"))
    return set_variant(config, variant)
