"""AntVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/ant_velocity.py

Variants: `ant_velocity.py:quick`, `ant_velocity.py`, `ant_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |               1146 / 2.1 / 37% |
    | none         | planner |               1099 / 1.6 / 45% |
    | proco        | none    |               1179 / 3.0 / 22% |
    | proco        | planner |               1174 / 1.4 / 40% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetyAntVelocity")
    config = Config(experiment="ant_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
