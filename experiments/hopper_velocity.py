"""HopperVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/hopper_velocity.py

Variants: `hopper_velocity.py:quick`, `hopper_velocity.py`, `hopper_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick` in the study `experiments/sweeps/all_tasks.py:quick`, 3 seeds x 20 episodes, as
in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |             383.9 / 13.9 / 45% |
    | none         | planner |              379.0 / 0.6 / 80% |
    | proco        | none    |             441.8 / 11.6 / 57% |
    | proco        | planner |              420.1 / 0.3 / 85% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetyHopperVelocity")
    config = Config(experiment="hopper_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
