"""CarPush1 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_push.py

Variants: `car_push.py:quick`, `car_push.py`, `car_push.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              -2.3 / 10.8 / 80% |
    | none         | planner |              -0.2 / 0.0 / 100% |
    | proco        | none    |              -2.2 / 21.7 / 60% |
    | proco        | planner |              -1.0 / 0.0 / 100% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_push", task="SafetyCarPush1"))
    return set_variant(config, variant)
