"""Budgets that every experiment shares, and settings of task families."""

from proco_jax.config.schema import ALGORITHMS, AUGMENTATIONS, SHIELDS, Config

VARIANTS = ("quick", "default", "paper")
# Margin of the labels, and the largest of the planner, on velocity tasks, as a share of the limit.
VELOCITY_MARGIN = 0.015
# Most gradient steps of a policy in the variant `quick`.
QUICK_STEPS = 4000
# Of the improvement in imagination, where it is used.
UPDATES = 600
# What a comparison trains, in this order, as far as the package has it.
COMPARED = ("bc", "bcq_lag", "bear_lag", "cpq", "coptidice", "fisor", "proco", "cdt")


def set_variant(config: Config, variant: str) -> Config:
    """Sets the budgets of a variant, in place, once.

    `quick` takes half of the gradient steps of the dynamics. Its policies learn from a quarter of
    the rows: on navigation tasks in as many steps of fewer rows, on velocity tasks in fewer steps.

    Args:
      config: of an experiment, budgets at their defaults.
      variant: `quick` (minutes on 2 cores), `default` (under an hour on 2 cores) or `paper` (the
        million updates of published methods, for accelerators).

    Returns:
      The same config.

    Raises:
      ValueError: on another variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; there are {', '.join(VARIANTS)}")
    config.variant = variant
    if variant == "paper":
        return _paper(config)
    # A few thousand steps need a larger learning rate than a million.
    for section in (config.proco, config.bc, config.coptidice, config.fisor, config.feasibility):
        section.learning_rate = 1e-3
    config.cpq.policy_learning_rate = 1e-3
    config.cdt.learning_rate = config.cdt.temperature_learning_rate = 1e-3
    config.cdt.warmup_steps = 100.0
    for section in (config.bcq_lag, config.bear_lag, config.cpq):
        section.tau = 0.05
    # So early, advantages of single actions mislead: with the published 3, nothing is earned.
    config.fisor.reward_temperature = 0.5
    return _quick(config) if variant == "quick" else config


def for_navigation(config: Config) -> Config:
    """Settings of the 16 navigation tasks, in place: logs of trained policies."""
    config.data.collect.behavior = "policies"
    # On most tasks a twentieth to a third of these episodes are free of violations.
    config.data.episodes = 600
    # Rings move by geometry; what is left to learn takes fewer steps.
    config.dynamics.steps = 2000
    # So the model is right beyond the logs too, and a search for reward does not exploit its errors
    # as on SwimmerVelocity (docs/experiments.md).
    config.shield.reward_quantile = 0.5
    # What moves on the Button tasks is predicted worse than states are labeled (CarButton1,
    # docs/experiments.md).
    config.shield.most_margin = 2.0
    return config


def for_velocity(config: Config, limit: float) -> Config:
    """Settings of the 5 velocity tasks, in place: logs of trained policies.

    Their observations have no rings. Gradient steps of plain networks are cheap, and these tasks
    need many: on HalfCheetahVelocity the policy has not learned to run after 1,000 steps
    (docs/experiments.md).

    Args:
      config: of an experiment, budgets at their defaults.
      limit: the speed in m/s above which a step costs 1.

    Returns:
      The same config.
    """
    # About 0.05 m/s on HalfCheetahVelocity. The limits differ by a factor of 14.
    config.cost.margin = VELOCITY_MARGIN * limit
    # On HalfCheetahVelocity, beyond the limit, the predicted speed is better than the last known
    # one after 5 steps, and worse after 10.
    config.shield.planner_horizon = 6
    config.data.collect.behavior = "policies"
    config.data.episodes = 600
    config.dynamics.steps = 16_000
    config.train.steps, config.train.chunk = 16_000, 1000
    config.train.checkpoint_every = config.evaluation.interim_every = 4000
    config.rollouts.interval = 1000
    return config


def for_comparison(config: Config) -> Config:
    """Every algorithm with every augmentation under every shield, in place, after `set_variant`.

    Three seeds and 20 episodes are the protocol of published tables. PROCO's policy is improved in
    imagination, and the other algorithms learn from its imagined episodes. Most of the quick
    variant's time is compilation: its numbers say that everything works, not which algorithm is
    better, and nothing is improved in it.
    """
    config.algorithms = tuple(name for name in COMPARED if name in ALGORITHMS)
    config.augmentations, config.shields = AUGMENTATIONS, SHIELDS
    config.seeds = 3
    config.evaluation.interim_episodes = 0
    if config.variant == "quick":
        config.seeds = 2
        config.data.episodes = 100
        config.dynamics.steps = config.cost.steps = 500
        config.train.steps = config.train.checkpoint_every = 250
        config.train.chunk = config.rollouts.interval = 250
        usual = Config()
        config.train.batch, config.cdt.batch = usual.train.batch, usual.cdt.batch
        config.evaluation.episodes = 2
        config.shield.forecast_starts = 8
    else:
        config.proco.imagination.updates = UPDATES
    return config


def _quick(config: Config) -> Config:
    config.seeds = 2
    config.data.episodes = 150
    config.dynamics.members, config.dynamics.elites = 3, 2
    config.dynamics.steps //= 2
    config.cost.steps = 1000
    # From as many rows, more steps teach an actor-critic more (docs/experiments.md).
    steps = min(config.train.steps, QUICK_STEPS)
    smaller = 4 * steps // config.train.steps
    config.train.batch //= smaller
    config.cdt.batch //= smaller
    config.train.steps = config.train.checkpoint_every = steps
    config.train.chunk = config.rollouts.interval = max(500, config.train.chunk)
    config.evaluation.interim_episodes = 0
    config.evaluation.episodes = 3
    config.shield.forecast_starts = 32
    return config


def _paper(config: Config) -> Config:
    config.data.episodes = 2000
    config.dynamics.members, config.dynamics.elites = 7, 5
    config.dynamics.steps = 100_000
    config.cost.steps = 20_000
    config.encoder.features = 256
    config.proco.hidden = config.bc.hidden = config.feasibility.hidden = (256, 256)
    config.coptidice.hidden = (256, 256)
    config.coptidice.learning_rate = config.coptidice.multiplier_learning_rate = 1e-4
    config.fisor.hidden, config.fisor.width = (256, 256), 256
    config.cdt.width, config.cdt.layers, config.cdt.heads = 128, 3, 8
    config.cdt.batch = 2048
    config.feasibility.tau = config.proco.tau = config.fisor.tau = 0.005
    config.fisor.policy_tau = 0.001
    for section in (config.bcq_lag, config.bear_lag, config.cpq):
        section.hidden, section.vae_hidden = (256, 256), (400, 400)
    config.train.batch = 2048
    config.train.steps = 1_000_000
    config.train.chunk = 5000
    config.train.checkpoint_every = 50_000
    config.rollouts.interval = 1000
    config.rollouts.starts = 512
    config.evaluation.interim_every = 100_000
    return config
