"""PROCO: generated costs and imagined counterfactuals.

A conservative cost network, distilled from labels of states that knowledge calls unsafe, relabels
the logged transitions. Rollouts in the dynamics model, most of them risk-seeking, add rows that
reach unsafe states, and recovery rollouts add rows that avoid them. They are regenerated with the
current policy every `rollouts.interval` steps; a batch holds `augmentation.imagined_share` of them,
of which `augmentation.violating_share` come from violating trajectories.

Where a policy was improved in imagination (`training/imagined_episodes.py`), rows of its imagined
episodes take the place of `augmentation.episode_share` of the logged rows in the training of other
algorithms.

Source: PROCO (Xue et al. 2026, arXiv 2605.01356), of which the abstract was at hand; the mixture of
sources and the balance are ours.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from proco_jax.augmentation import buffer, rollouts
from proco_jax.augmentation.base import (
    Augmentation,
    Context,
    ImaginedEpisodes,
    Policy,
    WorldModel,
)
from proco_jax.augmentation.learned_world import learned_world
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import Config
from proco_jax.models import cost, dynamics, object_map, termination
from proco_jax.models.networks import Critic, DynamicsNetwork
from proco_jax.types import Array, Segment, ToGo, Transition

# `Augmentation.sample` and `sample_segments`.
Samplers = tuple[Callable[..., Transition] | None, Callable[..., Segment] | None]


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.AugmentationConfig` and `RolloutConfig`."""

    violating_share: Array
    episode_share: Array
    rollouts: rollouts.Hyper


def make(config: Config, dynamics_net: DynamicsNetwork, cost_net: Critic) -> Augmentation:
    """The augmentation of a config."""
    return make_imagining(
        "proco",
        config,
        lambda world: rollout_model(
            dynamics_net, cost_net, world.dynamics, world.cost, world.termination
        ),
        lambda context: jnp.maximum(context.data.cost, _world(context).unsafe),
        functools.partial(learned_world, dynamics_net, cost_net),
    )


def make_imagining(name, config: Config, model_of, cost, world) -> Augmentation:
    """An augmentation that imagines rollouts in a model.

    Args:
      name: as in results.
      config: of the run.
      model_of: a `WorldModel` to the `RolloutModel` that rollouts follow.
      cost: a context to the costs `[N]` of the logged transitions.
      world: a context and a number of elites to the world that a policy can be improved in.
    """
    settings, rows = config.rollouts, buffer.imagined_rows(config)

    def generate(key: Array, hyper: Hyper, context: Context, policy: Policy) -> rollouts.Imagined:
        world = _world(context)
        elites = world.dynamics.elites.shape[0]
        model, data = model_of(world), context.data
        return rollouts.generate(
            settings, hyper.rollouts, model, policy, data, world.risky, elites, key
        )

    def init(hyper: Hyper, context: Context, policy: Policy) -> buffer.Buffer | None:
        if not rows:
            return None
        elites = _world(context).dynamics.elites.shape[0]
        like = rollouts.generated_shapes(settings, context.data, elites)
        return buffer.empty_buffer(settings.generations, like)

    def refresh(
        key: Array, hyper: Hyper, context: Context, state: buffer.Buffer | None, policy: Policy
    ) -> tuple[buffer.Buffer | None, dict[str, jax.Array]]:
        if state is None:
            return None, {}
        new = generate(key, hyper, context, policy)
        return buffer.add(state, new), rollouts.summary(new)

    def episodes(hyper: Hyper, context: Context) -> tuple[ImaginedEpisodes, Array] | None:
        found = _world(context).episodes
        return None if found is None else (found, hyper.episode_share)

    sample, sample_segments = make_samplers(config, lambda context, state: state)
    return Augmentation(
        name=name,
        hyper=make_hyper(config),
        rows=rows,
        warmup=settings.warmup if rows else 0,
        init=init,
        refresh=refresh,
        cost=cost,
        sample=sample,
        sample_segments=sample_segments,
        world=world,
        episodes=episodes,
    )


def make_samplers(config: Config, buffer_of: Callable[[Context, Any], buffer.Buffer]) -> Samplers:
    """`Augmentation.sample` and `sample_segments`, which draw from a buffer; None without rows.

    Args:
      config: of the run.
      buffer_of: context and state of the augmentation to the buffer.
    """
    rows, n = buffer.imagined_rows(config), config.train.n_step
    if not rows:
        return None, None

    def sample(key: Array, hyper: Hyper, context: Context, state: Any) -> Transition:
        held = buffer_of(context, state)
        return buffer.sample(key, held, context.normalizer, rows, n, hyper.violating_share)

    def sample_segments(
        key: Array,
        hyper: Hyper,
        context: Context,
        state: Any,
        to_go: ToGo,
        logged: int,
        length: int,
    ) -> Segment:
        held = buffer_of(context, state)
        logs = (context.data, to_go, context.normalizer)
        shape = (buffer.imagined_count(config, logged), length)
        return buffer.sample_segments(key, held, *logs, shape, hyper.violating_share)

    return sample, sample_segments


def make_hyper(config: Config) -> Hyper:
    """The hyperparameters of a config."""
    own = hyper_from(config.rollouts, rollouts.Hyper)
    return hyper_from(config.augmentation, Hyper, rollouts=own)


def rollout_model(
    dynamics_net: DynamicsNetwork,
    cost_net: Critic,
    model: dynamics.Model,
    cost_model: cost.CostModel | None,
    ending: termination.TerminationModel | None = None,
) -> rollouts.RolloutModel:
    """Fitted dynamics, cost network and terminations as the functions that rollouts ask for.

    Without a cost network no state is unsafe and all score 0. Without a termination model no state
    ends an episode.
    """
    elites = jnp.arange(model.elites.shape[0])

    def step(state: Array, action: Array) -> jax.Array:
        def one(elite: Array, s: Array, a: Array) -> jax.Array:
            return dynamics.predict(dynamics_net, model, elite, s, a).next_state

        return jax.vmap(one)(elites, state, action)

    def score(obs: Array) -> jax.Array:
        if cost_model is None:
            return jnp.zeros(obs.shape[:-1])
        return cost.score(cost_net, cost_model, obs)

    threshold = jnp.inf if cost_model is None else cost_model.threshold
    return rollouts.RolloutModel(
        step=step,
        predict=lambda state, action: dynamics.predict_mean(dynamics_net, model, state, action),
        score=score,
        unsafe=lambda obs, disagreement: score(obs) >= threshold,
        limit=model.limit,
        ends=None if ending is None else functools.partial(termination.ends, ending),
        begin=functools.partial(object_map.begin, dynamics_net.spec),
        observe=functools.partial(object_map.observation, dynamics_net.spec),
    )


def _world(context: Context) -> WorldModel:
    assert context.world is not None, "this augmentation needs a world model"
    return context.world
