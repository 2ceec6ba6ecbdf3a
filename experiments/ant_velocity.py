"""AntVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/ant_velocity.py

Variants: `ant_velocity.py:quick`, `ant_velocity.py`, `ant_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |                1788 / 6.2 / 5% |
    | none         | planner |               1576 / 2.1 / 10% |
    | proco        | none    |               1610 / 3.9 / 10% |
    | proco        | planner |               1590 / 2.5 / 25% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetyAntVelocity")
    config = Config(experiment="ant_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
