"""A system of one's own: a buffer tank, from logs in a CSV file to guarded policies.

    python -m proco_jax.main --config=experiments/own_system/tank.py

Its description is `tank.md`, its logs are `tank_logs.csv`, in which the tank never overflows. The
environment in `tank_env.py` is the judge: nothing is trained or chosen by it. docs/own_system.md
walks through this example.

Variants: `tank.py:quick`, `tank.py`.
"""

from proco_jax.config.schema import Config, SystemConfig

VARIANTS = ("quick", "default")


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; there are {', '.join(VARIANTS)}")
    config = Config(
        experiment="tank",
        variant=variant,
        system=SystemConfig(
            file="experiments/own_system/tank.md",
            env="experiments/own_system/tank_env.py:Tank",
        ),
        algorithms=("proco", "bc"),
        shields=("planner", "none"),
        seeds=2,
    )
    config.data.source = "csv:experiments/own_system/tank_logs.csv"
    config.data.holdout_share = 0.2
    # Three numbers are observed: small networks suffice.
    config.encoder.features = 64
    config.dynamics.hidden = (64, 64)
    config.dynamics.steps, config.dynamics.trajectory.steps = 2000, 600
    config.cost.hidden = config.proco.hidden = config.bc.hidden = (64,)
    config.feasibility.hidden = (64,)
    config.cost.steps = 1000
    config.knowledge.rule_states = 20_000
    for section in (config.proco, config.bc, config.feasibility):
        section.learning_rate = 1e-3
    config.train.steps = 3000
    config.shield.forecast_starts = 96
    config.evaluation.episodes = 40
    config.evaluation.interim_episodes = 0
    if variant == "quick":
        config.dynamics.steps = 500
        config.dynamics.members, config.dynamics.elites = 3, 2
        config.cost.steps = 500
        config.train.steps = config.train.checkpoint_every = 500
        config.evaluation.episodes = 10
        config.shield.forecast_starts = 32
    return config
