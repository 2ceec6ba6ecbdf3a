"""Walker2dVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/walker2d_velocity.py

Variants: `walker2d_velocity.py:quick`, `walker2d_velocity.py`, `walker2d_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              478.2 / 8.9 / 25% |
    | none         | planner |              462.3 / 1.9 / 55% |
    | proco        | none    |              476.6 / 6.3 / 35% |
    | proco        | planner |              443.9 / 1.2 / 60% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetyWalker2dVelocity")
    config = Config(experiment="walker2d_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
