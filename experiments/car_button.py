"""CarButton1 from logs in which nothing ever went wrong.

python -m proco_jax.main --config=experiments/car_button.py
"""

from proco_jax.config import Config


def get_config(variant: str = "default") -> Config:
    """The experiment; variants: quick, default, paper."""
    config = Config(experiment="car_button", variant=variant, task="SafetyCarButton1")
    # Careless drivers seldom get through without a touch here: 0 is drawn once in six.
    config.data.collect.gains = (0.0, 1.0, 1.5, 2.0, 2.0, 3.0)
    config.data.episodes = 300
    if variant != "paper":
        # So few steps need larger ones.
        config.agent.learning_rate = 1e-3
    if variant == "quick":
        config.seeds = 2
        config.data.episodes = 60
        config.dynamics.members, config.dynamics.elites = 3, 2
        config.dynamics.steps = 1000
        config.cost.steps = 1000
        config.train.steps = config.train.checkpoint_every = 1000
        config.evaluation.interim_episodes = 0
        config.evaluation.episodes = 3
    elif variant == "paper":
        config.data.episodes = 2000
        config.dynamics.per_seed = True
        config.dynamics.steps = 100_000
        config.cost.steps = 20_000
        config.train.batch = 2048
        config.train.steps = 1_000_000
        config.train.chunk = 5000
        config.train.checkpoint_every = 50_000
        config.rollouts.interval = 1000
        config.rollouts.starts = 512
        config.evaluation.interim_every = 100_000
    elif variant != "default":
        raise ValueError(f"no variant {variant!r}; there are quick, default and paper")
    return config
