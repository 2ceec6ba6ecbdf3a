"""SwimmerVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/swimmer_velocity.py

Variants: `swimmer_velocity.py:quick`, `swimmer_velocity.py`, `swimmer_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              25.2 / 0.0 / 100% |
    | none         | planner |               22.1 / 2.1 / 20% |
    | proco        | none    |               10.2 / 0.6 / 75% |
    | proco        | planner |                8.9 / 2.5 / 40% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetySwimmerVelocity")
    config = Config(experiment="swimmer_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
