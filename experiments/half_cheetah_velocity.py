"""HalfCheetahVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/half_cheetah_velocity.py

Variants: `half_cheetah_velocity.py:quick`, `half_cheetah_velocity.py`,
`half_cheetah_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              895.7 / 1.6 / 62% |
    | none         | planner |              923.6 / 0.3 / 78% |
    | proco        | none    |              922.2 / 1.8 / 37% |
    | proco        | planner |              959.6 / 0.3 / 75% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetyHalfCheetahVelocity")
    config = Config(experiment="half_cheetah_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
