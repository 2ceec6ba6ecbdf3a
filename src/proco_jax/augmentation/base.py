"""The contract of an augmentation: what a training batch holds beside the logged rows.

An augmentation decides the costs of logged transitions, imagines further rows, and may hold
imagined episodes that are learned from in place of logged ones. It acts in training alone; what
guards a policy at deployment is a shield (`deployment/shield.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.augmentation.buffer import Buffer
from proco_jax.models.bonus import BonusModel
from proco_jax.models.cost import CostModel
from proco_jax.models.dynamics import Model
from proco_jax.models.normalizer import Normalizer
from proco_jax.models.termination import TerminationModel
from proco_jax.types import Array, Dataset, Segment, ToGo, Transition

# Key and raw obs `[..., O]` to actions `[..., A]`.
Policy = Callable[[Array, Array], Array]


class ImaginedEpisodes(NamedTuple):
    """Whole episodes of a policy in the learned world, which are learned from as logged ones are.

    Attributes:
      data: as the logs are stored; a cost is 1 where the next state counts as unsafe.
      to_go: their sums to go.
    """

    data: Dataset
    to_go: ToGo


class WorldModel(NamedTuple):
    """What an augmentation knows beside the logs.

    Attributes:
      dynamics: the fitted ensemble.
      cost: the fitted cost network; None without knowledge.
      unsafe: `[N]` bool, whether the cost network calls each logged next state unsafe.
      risky: `[R]` indices of the logged transitions whose states score highest.
      trajectories: fixed trajectories, for the augmentation `fixed_trajectories` alone.
      bonus: the fitted event model of rare bonuses; None without one, then none is imagined.
      residuals: `[K, O]` what the dynamics do not predict of logged observations, for worlds in
        which a policy is improved.
      termination: the fitted classifier of states that end an episode; None where the logs have no
        termination.
      accurate_cost: a fitted cost network that is not conservative, for worlds in which a policy is
        improved; None where there is none or no knowledge.
      begun: `[B, S]` states in which worlds may begin, that know what their logged episode shows
        at other times (`models/episode_map.py`); None for those that know the logged state alone.
      begun_risky: the same of the states of `risky`.
      episodes: imagined episodes of a policy that was improved in this world, for the trainings of
        other policies; None for none.
    """

    dynamics: Model
    cost: CostModel | None
    unsafe: Array
    risky: Array
    trajectories: Buffer | None = None
    bonus: BonusModel | None = None
    residuals: Array | None = None
    termination: TerminationModel | None = None
    accurate_cost: CostModel | None = None
    begun: Array | None = None
    begun_risky: Array | None = None
    episodes: ImaginedEpisodes | None = None


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


class Outcome(NamedTuple):
    """What the learned world answers to actions.

    Attributes:
      next_state: `[..., S]` imagined, of which `unsafe` and `lost` speak.
      reward: `[...]`, the usual part, within its usual range.
      bonus: `[...]` probability that the action earns a rare bonus.
      unsafe: `[...]` bool, whether the next state counts as unsafe.
      lost: `[...]` bool, whether the model left the support of the logs, or the episode ends.
    """

    next_state: Array
    reward: Array
    bonus: Array
    unsafe: Array
    lost: Array


class World(NamedTuple):
    """The world model as an algorithm acts in it (`algorithms/imagination.py`).

    Imagined states `[..., S]` hold a raw observation and places of objects (`object_map.py`).

    Attributes:
      normalizer: of observations.
      observe: states `[..., S]` to raw obs `[..., O]`.
      step: (key, states `[n, S]`, actions `[n, A]`) to the outcome, with what the dynamics cannot
        predict.
      bonus: scalar, the size of a rare bonus.
      redraw: (key, next states `[n, S]`, whether a bonus occurs `[n]`) to states `[n, S]`, with
        what a bonus changes.
      starts: (key, n, share) to states `[n, S]` that begin at logged ones, a share of them risky.
      logged: (key, n) to logged raw obs `[n, O]`, actions `[n, A]`, and whether the next state
        counts as safe, `[n]` bool.
    """

    normalizer: Normalizer
    observe: Callable[[Array], Array]
    step: Callable[[Array, Array, Array], Outcome]
    bonus: Array
    redraw: Callable[[Array, Array, Array], Array]
    starts: Callable[[Array, int, Array], Array]
    logged: Callable[[Array, int], tuple[Array, Array, Array]]


def advance(
    world: World, keys: tuple[Array, Array], state: Array, action: Array
) -> tuple[Outcome, Array, Array, Array]:
    """One step of n worlds, with what the dynamics cannot predict.

    Args:
      keys: of the bonuses, and of all else.
      state: `[n, S]`.
      action: `[n, A]`.

    Returns:
      The outcome; whether a bonus occurs `[n]`; the reward with it `[n]`; the states then `[n, S]`.
    """
    bonus_key, sample_key = keys
    step_key, redraw_key = jax.random.split(sample_key)
    found = world.step(step_key, state, action)
    bonus = jax.random.bernoulli(bonus_key, found.bonus)
    reward = found.reward + jnp.where(bonus, world.bonus, 0.0)
    return found, bonus, reward, world.redraw(redraw_key, found.next_state, bonus)


def no_episodes(hyper: Any, context: Context) -> None:
    """`Augmentation.episodes` of one that has none."""


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
      world: (context, number of elites that predict) to the world that a policy can be improved in;
        None if there is none.
      episodes: (hyper, context) to imagined episodes, and the share of the logged rows of a batch
        whose place rows of them take; None if there are none.
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
    world: Callable[[Context, int], World] | None = None
    episodes: Callable[[Any, Context], tuple[ImaginedEpisodes, Array] | None] = no_episodes
