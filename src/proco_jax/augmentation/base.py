"""The contract of an augmentation: what a training batch holds beside the logged rows.

An augmentation decides the costs of logged transitions and imagines further rows. It acts in
training alone; what guards a policy at deployment is a shield (`deployment/shield.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from proco_jax.augmentation.buffer import Buffer
from proco_jax.models.cost import CostModel
from proco_jax.models.dynamics import Model
from proco_jax.models.normalizer import Normalizer
from proco_jax.types import Array, Dataset, Segment, ToGo, Transition

# Key and raw obs `[..., O]` to actions `[..., A]`.
Policy = Callable[[Array, Array], Array]


class WorldModel(NamedTuple):
    """What an augmentation knows beside the logs.

    Attributes:
      dynamics: the fitted ensemble.
      cost: the fitted cost network; None without knowledge.
      unsafe: `[N]` bool, whether the cost network calls each logged next state unsafe.
      risky: `[R]` indices of the logged transitions whose states score highest.
      trajectories: fixed trajectories, for the augmentation `replay` alone.
    """

    dynamics: Model
    cost: CostModel | None
    unsafe: Array
    risky: Array
    trajectories: Buffer | None = None


class Context(NamedTuple):
    """The arrays that training reads and never changes.

    Attributes:
      data: the logs.
      normalizer: of observations.
      world: None without augmentation.
    """

    data: Dataset
    normalizer: Normalizer
    world: WorldModel | None


class Augmentation(NamedTuple):
    """An augmentation, as pure functions on the state of one member.

    Attributes:
      name: as in results.
      hyper: every float that it depends on, a pytree of scalars.
      rows: imagined rows per batch.
      warmup: refreshes before the first training step.
      init: (hyper, context, policy) to an empty state.
      refresh: (key, hyper, context, state, policy) to (state, metrics); called once per
        `rollouts.interval` steps with the current policy.
      cost: context to the costs `[N]` of the logged transitions.
      sample: (key, hyper, context, state) to `rows` imagined rows; None if `rows` is 0.
      sample_segments: (key, hyper, context, state, to_go, logged, K) to segments of K steps with
        imagined ones, in the same proportion to so many logged segments. The costs of the context's
        logs, and the sums to go, are those that the augmentation says. None if `rows` is 0.
    """

    name: str
    hyper: Any
    rows: int
    warmup: int
    init: Callable[[Any, Context, Policy], Any]
    refresh: Callable[[Array, Any, Context, Any, Policy], tuple[Any, dict[str, jax.Array]]]
    cost: Callable[[Context], Array]
    sample: Callable[[Array, Any, Context, Any], Transition] | None
    sample_segments: Callable[[Array, Any, Context, Any, ToGo, int, int], Segment] | None
