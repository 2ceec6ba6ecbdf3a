"""Walker2dVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/walker2d_velocity.py

Variants: `walker2d_velocity.py:quick`, `walker2d_velocity.py`, `walker2d_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              475.0 / 6.8 / 35% |
    | none         | planner |              458.2 / 1.6 / 58% |
    | proco        | none    |              468.2 / 7.8 / 35% |
    | proco        | planner |              445.3 / 0.6 / 75% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetyWalker2dVelocity")
    config = Config(experiment="walker2d_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
