"""CarButton2 from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/car_button_2.py

Variants: `car_button_2.py:quick`, `car_button_2.py`, `car_button_2.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              -0.1 / 84.4 / 22% |
    | none         | planner |               3.7 / 15.0 / 43% |
    | proco        | none    |               0.4 / 87.2 / 27% |
    | proco        | planner |               3.4 / 17.5 / 40% |
"""

from proco_jax.config.presets import for_navigation, set_variant
from proco_jax.config.schema import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = for_navigation(Config(experiment="car_button_2", task="SafetyCarButton2"))
    return set_variant(config, variant)
