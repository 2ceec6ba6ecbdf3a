"""CarCircle2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_circle_2.py

Variants: `car_circle_2.py:quick`, `car_circle_2.py`, `car_circle_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              13.3 / 29.1 / 50% |
    | none         | planner |              11.5 / 0.0 / 100% |
    | proco        | none    |              14.5 / 54.4 / 45% |
    | proco        | planner |              11.5 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_circle_2", task="SafetyCarCircle2"))
    return set_variant(config, variant)
