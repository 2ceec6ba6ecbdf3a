"""The contract of an algorithm.

An algorithm is a tuple of pure functions on the state of one member, i.e. of one seed with one
setting of the hyperparameters. The training loop vectorizes them over members, acting over states.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from proco_jax.models.networks import GaussianPolicy
from proco_jax.types import Array, Dataset, ToGo

Metrics = dict[str, jax.Array]


class Previous(NamedTuple):
    """What the last step of an episode gave; zeros at its start.

    Attributes:
      action: `[A]`, the action that was executed.
      reward: scalar.
      cost: scalar.
    """

    action: Array
    reward: Array
    cost: Array


class SegmentSpec(NamedTuple):
    """The batches of an algorithm that takes segments.

    Attributes:
      length: K, steps of a segment.
      batch: logged segments per gradient step.
      cost_ceiling: a logged episode's chance of being drawn is in proportion to how far its cost is
        below this, 0 above; None for transitions that are drawn uniformly.
    """

    length: int
    batch: int
    cost_ceiling: float | None = None


class Actor(NamedTuple):
    """The policy of an algorithm, as its improvement in imagination takes and returns it.

    Attributes:
      net: of the policy, normalized obs to mean and log std of a Gaussian.
      params: state to the parameters of the policy.
      replace: (state, parameters) to the state with that policy.
      update_critics: (hyper, state, batch) to (state, metrics), one gradient step of the
        feasibility critics alone; None if the algorithm has none of its own.
    """

    net: GaussianPolicy
    params: Callable[[Any], Any]
    replace: Callable[[Any, Any], Any]
    update_critics: Callable[[Any, Any, Any], tuple[Any, Metrics]] | None = None


class Algorithm(NamedTuple):
    """An offline algorithm.

    Attributes:
      name: as in results.
      batch: whether `update` takes a `types.Transition` or a `types.Segment`.
      hyper: every float that the algorithm depends on, a pytree of scalars; members of one
        compiled program may have different ones. What changes a shape is not among them.
      init: (key, hyper) to a fresh state.
      update: (key, hyper, state, batch) to (state, metrics), one gradient step.
      initial_carry: () to the memory of a policy at the start of an episode.
      act: (key, hyper, state, carry, obs `[O]` normalized, previous) to (action `[A]`, carry).
      sample_actions: (key, hyper, state, carry, obs `[O]` normalized, previous, n) to (actions
        `[n, A]`, carry), from which a shield chooses; None if the policy cannot be sampled.
      critics: state to the feasibility critics that the algorithm trains itself, a
        `feasibility.FeasibilityState`; None if it has none.
      with_critics: (state, critics) to the state with other feasibility critics; None if it has
        none of its own, or if they must begin as `init` makes them.
      segments: the batches of segments; None for an algorithm that takes transitions.
      prepare: (hyper, fresh state, logs, their sums to go) to a state that holds what the algorithm
        takes from the logs as a whole, before the first step; None if nothing.
      actor: the policy that is improved in imagination after the training, where the augmentation
        has a world; None if it is not improved.
    """

    name: str
    batch: Literal["transition", "segment"]
    hyper: Any
    init: Callable[[Array, Any], Any]
    update: Callable[[Array, Any, Any, Any], tuple[Any, Metrics]]
    initial_carry: Callable[[], Any]
    act: Callable[[Array, Any, Any, Any, Array, Previous], tuple[Array, Any]]
    sample_actions: Callable[..., tuple[Array, Any]] | None = None
    critics: Callable[[Any], Any] | None = None
    with_critics: Callable[[Any, Any], Any] | None = None
    segments: SegmentSpec | None = None
    prepare: Callable[[Any, Any, Dataset, ToGo], Any] | None = None
    actor: Actor | None = None
