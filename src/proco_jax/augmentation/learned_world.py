"""The world model as an algorithm acts in it: steps, starts and safe logged actions.

Where the dynamics ensemble disagrees beyond its limit, or predicts a number that is not finite, the
world is lost: the state may not be continued. Nor is a state continued that ends an episode.

Without a cost network, as in the control, leaving the support of the logs is what counts as unsafe.
With one, the accurate network decides if there is one, else the conservative one. The latter
charges a policy for coming near as for a violation; a careful policy then pays away all that it
earns among hazards, and learns to leave them.

Some sensors can hardly be predicted, e.g. an accelerometer. A policy that was improved with their
means acts on noise once it is deployed, so residuals of logged transitions are added to them before
the state is judged. Rings get none: errors of where objects are would add up to a random walk.
"""

import jax
import jax.numpy as jnp

from proco_jax.augmentation.base import Context, Outcome, World
from proco_jax.models import bonus, cost, dynamics, object_map, termination
from proco_jax.models.networks import Critic, DynamicsNetwork
from proco_jax.types import Array


def learned_world(
    dynamics_net: DynamicsNetwork, cost_net: Critic, context: Context, elites: int
) -> World:
    """The world of a context.

    Args:
      dynamics_net: network of a dynamics member.
      cost_net: network of a cost member.
      context: with a world model.
      elites: how many members of the ensemble predict, the best ones. The limit of their
        disagreement is that of the model.
    """
    world, data = context.world, context.data
    assert world is not None, "this augmentation needs a world model"
    rows, begun, begun_risky = data.obs_index, world.begun, world.begun_risky
    judge = world.cost if world.accurate_cost is None else world.accurate_cost
    model, events = world.dynamics, world.bonus
    low, high = model.targets.usual
    spec = dynamics_net.spec

    def observe(state: Array) -> jax.Array:
        return object_map.observation(spec, state)

    def step(key: Array, state: Array, action: Array) -> Outcome:
        found = dynamics.predict_mean(dynamics_net, model, state, action, elites)
        finite = jnp.all(jnp.isfinite(found.next_state), axis=-1) & jnp.isfinite(found.reward)
        next_state = jnp.where(finite[..., None], found.next_state, state)
        if world.residuals is not None:
            index = jax.random.randint(key, finite.shape, 0, world.residuals.shape[0])
            next_state = next_state.at[..., : spec.size].add(world.residuals[index])
        next_obs = observe(next_state)
        reward = jnp.clip(jnp.where(finite, found.reward, 0.0), low, high)
        lost = ~(finite & (found.disagreement <= model.limit))
        unsafe = lost if judge is None else cost.unsafe(cost_net, judge, next_obs)
        if world.termination is not None:
            lost = lost | termination.ends(world.termination, next_obs)
        chance = jnp.zeros_like(reward)
        if events is not None:
            chance = bonus.probability(spec, events, observe(state), action)
        return Outcome(next_state, reward, chance, unsafe, lost)

    def draw(key: Array, n: int, prepared: Array | None, among: Array) -> jax.Array:
        if prepared is not None:
            return prepared[jax.random.randint(key, (n,), 0, len(prepared))]
        chosen = among[jax.random.randint(key, (n,), 0, len(among))]
        return object_map.begin(spec, data.obs[chosen])

    def starts(key: Array, n: int, risky_share: Array) -> jax.Array:
        any_key, risky_key, share_key = jax.random.split(key, 3)
        any_state = draw(any_key, n, begun, rows)
        risky = draw(risky_key, n, begun_risky, rows[world.risky])
        chosen = jax.random.bernoulli(share_key, risky_share, (n, 1))
        return jnp.where(chosen, risky, any_state)

    def logged(key: Array, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        index = jax.random.randint(key, (n,), 0, data.size)
        return data.obs[data.obs_index[index]], data.action[index], ~world.unsafe[index]

    def redraw(key: Array, state: Array, occurs: Array) -> Array:
        return state if events is None else bonus.after_bonus(spec, events, key, state, occurs)

    size = jnp.zeros(()) if events is None else events.size
    return World(context.normalizer, observe, step, size, redraw, starts, logged)
