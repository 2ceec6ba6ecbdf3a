"""Time limits as terminations, as published codes of offline safe RL have them.

There, data sets join both into one flag `done`. In this project `discount` is 0 at a true
termination alone, and the published behavior is a setting of an algorithm, `as_published`.
"""

import jax.numpy as jnp

from proco_jax.types import Transition


def end_at_time_limits(batch: Transition) -> Transition:
    """The same batch with `discount` 0 at the last transition of every logged episode.

    That transition is the one whose n-step window has no second step, so n must be at least 2, see
    `require_window`. Imagined trajectories end where the model ends, not at a time limit.
    """
    ends = ~batch.n_step.valid[:, 1] & ~batch.imagined
    return batch._replace(discount=jnp.where(ends, 0.0, batch.discount))


def require_window(algorithm: str, n_step: int) -> None:
    """Checks that windows are long enough for `end_at_time_limits`.

    Raises:
      ValueError: if they are not.
    """
    if n_step < 2:
        raise ValueError(
            f"--config.{algorithm}.as_published: found --config.train.n_step={n_step}, expected at "
            "least 2: the published code ends episodes at their time limit, which is visible only "
            "in windows of two steps or more"
        )
