"""Budgets that every experiment shares: a first look, a laptop, an accelerator."""

from proco_jax.config.schema import Config

VARIANTS = ("quick", "default", "paper")


def set_variant(config: Config, variant: str) -> Config:
    """Sets the budgets of a variant, in place.

    Args:
      config: of an experiment, budgets at their defaults.
      variant: `quick` (minutes on 2 cores), `default` (under an hour on 2
        cores) or `paper` (the published methods' million updates).

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
    # So few steps need larger ones.
    config.agent.learning_rate = 1e-3
    return _quick(config) if variant == "quick" else config


def for_buttons(config: Config) -> Config:
    """What tasks with buttons and gremlins need, in place; tuned on CarButton1."""
    # Careless drivers seldom get through without a touch here: 0 is drawn once in six.
    config.data.collect.gains = (0.0, 1.0, 1.5, 2.0, 2.0, 3.0)
    config.data.episodes = 300
    # Gremlins take longer to learn than hazards.
    config.dynamics.steps = 6000
    return config


def _quick(config: Config) -> Config:
    config.seeds = 2
    config.data.episodes = 60
    config.dynamics.members, config.dynamics.elites = 3, 2
    config.dynamics.steps = 1000
    config.cost.steps = 1000
    config.train.steps = config.train.checkpoint_every = 1000
    config.evaluation.interim_episodes = 0
    config.evaluation.episodes = 3
    # Hastily trained policies look for ways out all the time, one search after the other.
    config.evaluation.foreseen = 32
    return config


def _paper(config: Config) -> Config:
    config.data.episodes = 2000
    config.dynamics.per_seed = True
    config.dynamics.members, config.dynamics.elites = 7, 5
    config.dynamics.steps = 100_000
    config.cost.steps = 20_000
    config.encoder.features = 256
    config.agent.hidden = (256, 256)
    config.feasibility.target_rate = config.agent.target_rate = 0.005
    config.train.batch = 2048
    config.train.steps = 1_000_000
    config.train.chunk = 5000
    config.train.checkpoint_every = 50_000
    config.rollouts.interval = 1000
    config.rollouts.starts = 512
    config.evaluation.interim_every = 100_000
    return config
