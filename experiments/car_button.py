"""CarButton1 from violation-free logs.

    python -m proco_jax.main --config=experiments/car_button.py

Variants: `car_button.py:quick`, `car_button.py`, `car_button.py:paper`. Results:
`docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |               2.6 / 84.2 / 17% |
    | none         | planner |                3.2 / 8.5 / 47% |
    | proco        | none    |               2.6 / 69.2 / 27% |
    | proco        | planner |               2.7 / 10.4 / 43% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_button", task="SafetyCarButton1"))
    return set_variant(config, variant)
