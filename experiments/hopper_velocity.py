"""HopperVelocity from violation-free logs of trained policies.

    python -m proco_jax.main --config=experiments/hopper_velocity.py

Variants: `hopper_velocity.py:quick`, `hopper_velocity.py`, `hopper_velocity.py:paper`.

Results of the variant `quick`: `docs/experiments.md`.

The variant `quick`, with `--config.shields="('planner','none')"`
`--config.evaluation.episodes=10`, 2 seeds x 10 episodes, as in the README:

    | augmentation | shield  | return / cost / violation-free |
    | :----------- | :------ | -----------------------------: |
    | none         | none    |              343.7 / 2.4 / 65% |
    | none         | planner |              345.2 / 0.7 / 80% |
    | proco        | none    |              487.4 / 7.9 / 70% |
    | proco        | planner |              443.6 / 0.6 / 85% |
"""

from proco_jax.config.presets import for_velocity, set_variant
from proco_jax.config.schema import Config
from proco_jax.envs.tasks import get_task


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    task = get_task("SafetyHopperVelocity")
    config = Config(experiment="hopper_velocity", task=task.name)
    return set_variant(for_velocity(config, task.velocity_limit), variant)
