"""SwimmerVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/swimmer_velocity.py

Variants: `swimmer_velocity.py:quick`, `swimmer_velocity.py`, `swimmer_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |               25.2 / 0.4 / 90% |
    | none         | planner |               24.0 / 3.1 / 20% |
    | proco        | none    |                8.8 / 1.2 / 55% |
    | proco        | planner |                9.7 / 2.5 / 38% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetySwimmerVelocity")
    config = Config(experiment="swimmer_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
