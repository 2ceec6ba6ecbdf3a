"""HalfCheetahVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/half_cheetah_velocity.py

Variants: `half_cheetah_velocity.py:quick`, `half_cheetah_velocity.py`,
`half_cheetah_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |               1032 / 2.0 / 35% |
    | none         | planner |               1042 / 0.1 / 85% |
    | proco        | none    |              845.9 / 0.6 / 65% |
    | proco        | planner |               1130 / 0.2 / 80% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetyHalfCheetahVelocity")
    config = Config(experiment="half_cheetah_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
