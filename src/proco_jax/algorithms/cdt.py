"""CDT: the Constrained Decision Transformer (Liu et al. 2023, arXiv 2302.07351).

A causal transformer reads the last K steps of an episode as tokens (return to go, cost to go,
observation, action), four a step, and predicts the action of each step from what precedes it:

    a_t ~ pi(. | R_{t-K+1}, C_{t-K+1}, s_{t-K+1}, a_{t-K+1}, ..., R_t, C_t, s_t)

In training R and C are what the data went on to collect. When it acts they begin at a target return
and a target cost, and decrease by what was collected: the policy does what, in the data, came
before such a return at such a cost. The loss has three terms (section 4 of the paper):

    - mean log pi(a_t | ...) - temperature * mean entropy of pi      (a stochastic policy)
    cost_weight * cross-entropy of whether the step costs            (from the action's token)
    state_weight * squared error of the next observation             (from the action's token)

The temperature is learned so that the entropy stays at -A, A the number of action dimensions.

What sees generated costs and imagined steps:
- Costs to go of logged segments sum the costs that the augmentation says.
- Imagined segments join a logged past to an imagined future (`buffer.sample_segments`). Their sums
  to go continue beyond the rollout as the logged episode did, so that a few imagined steps change a
  sum by what they cost and earn and not by the rest of the episode. Imagined rewards lack goal
  bonuses: a rollout misses at most the few that fall into its steps.
- The action loss sees imagined steps with the factor `imagined_weight`, logged violations or not:
  logs without violations contain no cost to go, so only imagined steps show which actions precede
  one. The factor is small because imagined actions were chosen to explore. The past of an imagined
  segment is context alone; the same steps are learned in logged segments.
- The cost loss sees all steps: with violation-free logs, only imagined ones cost.
- The state loss sees logged steps alone: the model must not learn from itself.

On logs whose costs are all 0 the cost tokens are constant, and what remains is a decision
transformer (Chen et al. 2021) with a stochastic policy.

The target cost is the cost limit times `target_cost`; the target return is a quantile of the
returns of the logged episodes whose cost is within it, unless a setting gives it. Both are part of
the policy's state. Action, reward and cost of the previous step come from outside, so the policy
remembers the action that a shield executed, not the one that it proposed.

`as_published` computes what the published code (OSRL, Liu et al. 2023) does; the default differs in
these points:
- The cost token is the cost to go over the cost limit. There it is 50 minus the cost to go, whose
  embedding is dominated by the constant.
- Log-likelihood and entropy are sums over action dimensions. There they are means, while the target
  of the entropy is a sum.
- The standard deviation has the bounds that the code declares and does not apply.
- The cost loss is a mean over the steps that count. There steps beyond an episode's end count as 0.
- Segments are drawn uniformly. There an episode's chance is max(0, 70 - its cost), so that costlier
  ones, which a limit of 80 permits, are never used.
- The remaining cost stays at 0 once it is used up. There it becomes negative, which no data show.
- The learning rate decays to 0 by a cosine. There it is constant after the warm-up.
In both, the cost has one logit; there it has two, of which the difference counts. The state loss,
whose weight is 0, leaves out the step after an episode's end; there it is an observation of zeros.
The data augmentation of the paper, which assigns unattainable targets to episodes on the frontier,
is not part of either: its code fits polynomials whose degrees and ranges are set for each task
without a stated rule, and it fails on logs of equal costs, which are what this project is for.

Widths and the number of segments follow this project's budgets; the published ones are 128 wide,
3 layers, 8 heads, 2,048 segments, and learning rate 1e-4 (variant `paper`). Observations enter
through the ring encoder; with `--config.encoder.rings=False` through a linear layer, as published.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from proco_jax.algorithms.base import Algorithm, Metrics, Previous, SegmentSpec
from proco_jax.algorithms.gradient_step import clip_gradient, descend, gradient_step
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import CdtConfig, Config
from proco_jax.models.losses import weighted_cross_entropy, weighted_mean
from proco_jax.models.networks import Encoder, dropout, make_encoder, ring_sizes
from proco_jax.types import Array, Dataset, Segment, TaskSpec, ToGo

# Bounds of the log standard deviation, as the published code declares them.
LOG_STD_RANGE = (-5.0, 2.0)
# The published cost token is this minus the cost to go; episodes of the other cost are not drawn.
PUBLISHED_SHIFT, PUBLISHED_CEILING = 50.0, 70.0
# Embeddings of time steps beyond the time limit, as published.
_SPARE_STEPS = 10
_TOKENS = 4

_NORMAL = nn.initializers.normal(0.02)
# Of layer norms, as in the published code.
_EPSILON = 1e-5


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.CdtConfig`; `cost_limit` is the task's."""

    learning_rate: Array
    temperature_learning_rate: Array
    weight_decay: Array
    gradient_limit: Array
    warmup_steps: Array
    dropout: Array
    reward_scale: Array
    initial_temperature: Array
    cost_weight: Array
    state_weight: Array
    imagined_weight: Array
    target_cost: Array
    target_return: Array
    target_quantile: Array
    cost_limit: Array


class Predictions(NamedTuple):
    """Outputs of the transformer for each step of segments.

    Attributes:
      mean: `[..., K, A]` of the action, from all that precedes it.
      log_std: `[..., K, A]`.
      cost: `[..., K]` logit of whether the step costs, action included.
      next_obs: `[..., K, O]`, action included.
    """

    mean: Array
    log_std: Array
    cost: Array
    next_obs: Array


class Block(nn.Module):
    """Causal self-attention and an MLP, each behind a layer norm and beside a residual path."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, allowed: jax.Array, rate: Array | float) -> jax.Array:
        """Tokens `[..., T, W]`; `allowed [..., T, T]`, whether one may attend to another."""
        width = x.shape[-1]
        each = nn.DenseGeneral((3, self.heads, width // self.heads), kernel_init=_NORMAL)
        query, key, value = jnp.moveaxis(each(nn.LayerNorm(epsilon=_EPSILON)(x)), -3, 0)
        score = jnp.einsum("...qhd,...khd->...hqk", query, key) / np.sqrt(width // self.heads)
        # A token of a masked step attends to anything; what it finds is not used.
        score = jnp.where(allowed[..., None, :, :], score, -1e9)
        attention = dropout(self, jax.nn.softmax(score, axis=-1), rate)
        found = jnp.einsum("...hqk,...khd->...qhd", attention, value)
        found = nn.Dense(width, kernel_init=_NORMAL)(found.reshape(x.shape))
        x = x + dropout(self, found, rate)
        hidden = nn.Dense(4 * width, kernel_init=_NORMAL)(nn.LayerNorm(epsilon=_EPSILON)(x))
        hidden = nn.gelu(hidden, approximate=False)
        return x + dropout(self, nn.Dense(width, kernel_init=_NORMAL)(hidden), rate)


class Transformer(nn.Module):
    """The decision transformer over returns to go, costs to go, observations and actions.

    Attributes:
      encoder: of observations.
      actions: A.
      steps: time steps that have an embedding; later ones share the last.
      width: of tokens.
      layers: blocks.
      heads: of the attention.
      bounded: whether the log standard deviation is kept within `LOG_STD_RANGE`.
    """

    encoder: Encoder
    actions: int
    steps: int
    width: int
    layers: int
    heads: int
    bounded: bool

    @nn.compact
    def __call__(
        self,
        return_to_go: jax.Array,
        cost_to_go: jax.Array,
        obs: jax.Array,
        action: jax.Array,
        timestep: jax.Array,
        mask: jax.Array,
        rate: Array | float = 0.0,
    ) -> Predictions:
        """Predictions for segments with leading axes `[..., K]`; `rate` is that of dropout."""

        def linear(name: str, width: int) -> nn.Dense:
            return nn.Dense(width, kernel_init=_NORMAL, name=name)

        if self.encoder.rings and ring_sizes(self.encoder.spec):
            obs = self.encoder(obs, obs[..., :0])
        when = nn.Embed(self.steps, self.width, embedding_init=_NORMAL)
        inputs = {
            "return": return_to_go[..., None],
            "cost": cost_to_go[..., None],
            "obs": obs,
            "action": action,
        }
        embedded = [linear(f"{name}_token", self.width)(x) for name, x in inputs.items()]
        tokens = jnp.stack(embedded, axis=-2)
        tokens = tokens + when(jnp.clip(timestep, 0, self.steps - 1))[..., None, :]
        shape = (*timestep.shape[:-1], _TOKENS * timestep.shape[-1])
        x = dropout(self, nn.LayerNorm(epsilon=_EPSILON)(tokens.reshape(*shape, self.width)), rate)
        allowed = jnp.repeat(mask, _TOKENS, axis=-1)[..., None, :] & jnp.tri(shape[-1], dtype=bool)
        for _ in range(self.layers):
            x = Block(self.heads)(x, allowed, rate)
        x = nn.LayerNorm(epsilon=_EPSILON)(x).reshape(tokens.shape)
        of_obs, of_action = x[..., 2, :], x[..., 3, :]
        log_std = linear("log_std", self.actions)(of_obs)
        if self.bounded:
            low, high = LOG_STD_RANGE
            log_std = low + (high - low) * nn.sigmoid(log_std)
        return Predictions(
            mean=linear("mean", self.actions)(of_obs),
            log_std=log_std,
            cost=linear("cost", 1)(of_action)[..., 0],
            next_obs=linear("next_obs", self.encoder.spec.size)(of_action),
        )


class Memory(NamedTuple):
    """The last K steps of an episode, the present one last; earlier rows are empty at first.

    Attributes:
      obs: `[K, O]`.
      action: `[K, A]`, that of the present step still unknown.
      return_to_go: `[K]`.
      cost_to_go: `[K]`.
      steps: scalar int32, observations so far.
    """

    obs: Array
    action: Array
    return_to_go: Array
    cost_to_go: Array
    steps: Array


@struct.dataclass
class State:
    """Everything learned by one member, and the targets by which it acts.

    Attributes:
      params: of the transformer.
      optimizer: Adam's state for them.
      log_temperature: scalar, of the entropy.
      temperature_optimizer: Adam's state for it.
      step: gradient steps done.
      target_return: scalar, return to go at the start of an episode.
      target_cost: scalar, cost to go at the start of an episode.
    """

    params: Any
    optimizer: optax.OptState
    log_temperature: Array
    temperature_optimizer: optax.OptState
    step: Array
    target_return: Array
    target_cost: Array


def make(config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm for a task, with networks and hyperparameters of a config."""
    settings, net = config.cdt, make_network(config, task)
    decay = optax.cosine_decay_schedule(1.0, config.train.steps)

    def update_one(key: Array, hyper: Hyper, state: State, batch: Segment) -> tuple[State, Metrics]:
        rate = jnp.minimum((state.step + 1) / jnp.maximum(hyper.warmup_steps, 1.0), 1.0)
        rate = rate if settings.as_published else rate * decay(state.step)
        return update(key, hyper, net, state, batch, settings.as_published, rate)

    def sample_actions(
        key: Array,
        hyper: Hyper,
        state: State,
        carry: Memory,
        obs: Array,
        previous: Previous,
        n: int,
    ) -> tuple[Array, Memory]:
        carry = observe(state, carry, obs, previous, settings.as_published)
        mean, log_std = act_on(hyper, net, state, carry, settings.as_published)
        noise = jax.random.normal(key, (n, task.action_size))
        return jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0), carry

    def act(
        key: Array, hyper: Hyper, state: State, carry: Memory, obs: Array, previous: Previous
    ) -> tuple[Array, Memory]:
        carry = observe(state, carry, obs, previous, settings.as_published)
        mean, _ = act_on(hyper, net, state, carry, settings.as_published)
        return jnp.clip(mean, -1.0, 1.0), carry

    return Algorithm(
        name="cdt",
        batch="segment",
        hyper=hyper_from(settings, Hyper, cost_limit=jnp.float32(task.cost_limit)),
        init=lambda key, hyper: init(hyper, net, settings.context, key),
        update=update_one,
        initial_carry=lambda: empty_memory(
            settings.context, task.observation.size, task.action_size
        ),
        act=act,
        sample_actions=sample_actions,
        segments=segment_spec(settings),
        prepare=set_targets,
    )


def make_network(config: Config, task: TaskSpec) -> Transformer:
    """The transformer of a config for a task."""
    settings = config.cdt
    return Transformer(
        # Pooling over bins shows a policy that an object is near but blurs its direction.
        encoder=make_encoder(config.encoder, task.observation).clone(flat=True),
        actions=task.action_size,
        steps=task.episode_steps + _SPARE_STEPS,
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        bounded=not settings.as_published,
    )


def segment_spec(settings: CdtConfig) -> SegmentSpec:
    """Number and length of the segments of a config, and how episodes are drawn."""
    ceiling = PUBLISHED_CEILING if settings.as_published else None
    return SegmentSpec(settings.context, settings.batch, ceiling)


def init(hyper: Hyper, net: Transformer, context: int, key: Array) -> State:
    """A fresh state; `set_targets` gives it its targets."""
    memory = empty_memory(context, net.encoder.spec.size, net.actions)
    sums = jnp.zeros(context)
    when, mask = jnp.zeros(context, jnp.int32), jnp.ones(context, bool)
    params = net.init(key, sums, sums, memory.obs, memory.action, when, mask)
    adam, log_temperature = optax.scale_by_adam(), jnp.log(hyper.initial_temperature)
    return State(
        params=params,
        optimizer=adam.init(params),
        log_temperature=log_temperature,
        temperature_optimizer=adam.init(log_temperature),
        step=jnp.int32(0),
        target_return=jnp.zeros(()),
        target_cost=jnp.zeros(()),
    )


def set_targets(hyper: Hyper, state: State, data: Dataset, to_go: ToGo) -> State:
    """The state with its targets of cost and return.

    The quantile of returns is that of the logged episodes whose cost is within the target, or of
    those with the least cost if there is none.
    """
    target_cost = hyper.target_cost * hyper.cost_limit
    first = data.step == 0
    least = jnp.min(to_go.cost, where=first, initial=jnp.inf)
    within = first & (to_go.cost <= jnp.maximum(target_cost, least))
    returns = jnp.where(within, to_go.reward, jnp.nan)
    by_logs = jnp.nanquantile(returns, hyper.target_quantile)
    target_return = jnp.where(hyper.target_return == 0.0, by_logs, hyper.target_return)
    return dataclasses.replace(state, target_return=target_return, target_cost=target_cost)


def update(
    key: Array,
    hyper: Hyper,
    net: Transformer,
    state: State,
    batch: Segment,
    as_published: bool = False,
    rate: Array | float = 1.0,
) -> tuple[State, Metrics]:
    """One step of AdamW for the transformer, and one of Adam for the temperature.

    Args:
      key: of dropout.
      rate: factor on the learning rate of the transformer.
    """
    temperature = jnp.exp(state.log_temperature)

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        return total_loss(key, hyper, net, params, temperature, batch, as_published)

    grads, metrics = jax.grad(loss, has_aux=True)(state.params)
    grads, size = clip_gradient(grads, hyper.gradient_limit)
    speed = hyper.learning_rate * rate
    params, optimizer = descend(state.params, state.optimizer, grads, speed, hyper.weight_decay)
    entropy = metrics["cdt/entropy"]

    def temperature_loss(log_temperature: Array) -> tuple[jax.Array, None]:
        return jnp.exp(log_temperature) * jax.lax.stop_gradient(entropy + net.actions), None

    log_temperature, temperature_optimizer, _ = gradient_step(
        temperature_loss,
        state.log_temperature,
        state.temperature_optimizer,
        hyper.temperature_learning_rate,
    )
    state = dataclasses.replace(
        state,
        params=params,
        optimizer=optimizer,
        log_temperature=log_temperature,
        temperature_optimizer=temperature_optimizer,
        step=state.step + 1,
    )
    return state, metrics | {"cdt/temperature": temperature, "cdt/gradient": size}


def total_loss(
    key: Array,
    hyper: Hyper,
    net: Transformer,
    params: Any,
    temperature: Array,
    batch: Segment,
    as_published: bool = False,
) -> tuple[jax.Array, Metrics]:
    """The three terms, weighted; their values are `cdt/action_loss`, `cost_loss`, `state_loss`."""
    found: Any = net.apply(
        params, *tokens(hyper, batch, as_published), hyper.dropout, rngs={"dropout": key}
    )
    counts = counted(batch)
    action_weight = counts * jnp.where(batch.imagined, hyper.imagined_weight, 1.0)
    over = jnp.mean if as_published else jnp.sum
    log_prob = over(log_density(found, batch.action), axis=-1)
    # The entropy of a Gaussian, log(std) + log(2 pi e) / 2.
    entropy = over(found.log_std + 0.5 * np.log(2.0 * np.pi * np.e), axis=-1)
    log_prob, entropy = (_mean(x, action_weight) for x in (log_prob, entropy))
    action_loss = -(log_prob + temperature * entropy)
    costs = (batch.cost > 0).astype(jnp.float32)
    cross_entropy = weighted_cross_entropy(found.cost, costs, 1.0)
    cost_loss = jnp.mean(counts * cross_entropy) if as_published else _mean(cross_entropy, counts)
    state_loss = state_error(found.next_obs, batch)
    metrics = {
        "cdt/action_loss": action_loss,
        "cdt/cost_loss": cost_loss,
        "cdt/state_loss": state_loss,
        "cdt/log_likelihood": log_prob,
        "cdt/entropy": entropy,
    }
    loss = action_loss + hyper.cost_weight * cost_loss + hyper.state_weight * state_loss
    return loss, metrics


def counted(batch: Segment) -> jax.Array:
    """Weights `[B, K]`: 1 for steps that are learned, 0 for masked ones and for joined pasts."""
    joined = jnp.any(batch.imagined, axis=1, keepdims=True)
    return (batch.mask & (batch.imagined == joined)).astype(jnp.float32)


def log_density(found: Predictions, action: Array) -> jax.Array:
    """Log densities `[..., A]` of each dimension of actions `[..., A]`."""
    error = (action - found.mean) * jnp.exp(-found.log_std)
    return -0.5 * jnp.square(error) - found.log_std - 0.5 * np.log(2.0 * np.pi)


def state_error(next_obs: Array, batch: Segment) -> jax.Array:
    """Mean squared error of predicted observations `[B, K, O]`, over logged steps with a next."""
    error = jnp.mean(jnp.square(next_obs[:, :-1] - batch.obs[:, 1:]), axis=-1)
    logged = batch.mask[:, 1:] & ~jnp.any(batch.imagined, axis=1, keepdims=True)
    return _mean(error, logged.astype(jnp.float32))


def tokens(hyper: Hyper, batch: Segment, as_published: bool = False) -> tuple[Array, ...]:
    """The inputs of the transformer, of segments with any leading axes."""
    return (
        hyper.reward_scale * batch.return_to_go,
        cost_token(hyper, batch.cost_to_go, as_published),
        batch.obs,
        batch.action,
        batch.timestep,
        batch.mask,
    )


def cost_token(hyper: Hyper, cost_to_go: Array, as_published: bool = False) -> Array:
    """The number that stands for a cost to go; limits below 1 count as 1."""
    if as_published:
        return PUBLISHED_SHIFT - cost_to_go
    return cost_to_go / jnp.maximum(hyper.cost_limit, 1.0)


def empty_memory(context: int, obs_size: int, action_size: int) -> Memory:
    """The memory of K steps before the first observation of an episode."""
    sums = jnp.zeros(context)
    obs, action = jnp.zeros((context, obs_size)), jnp.zeros((context, action_size))
    return Memory(obs, action, sums, sums, jnp.int32(0))


def observe(
    state: State, memory: Memory, obs: Array, previous: Previous, as_published: bool = False
) -> Memory:
    """The memory with the next observation `[O]`, and the outcome of the previous step."""
    begins = memory.steps == 0
    left = memory.cost_to_go[-1] - previous.cost
    left = left if as_published else jnp.maximum(left, 0.0)
    return_to_go = jnp.where(begins, state.target_return, memory.return_to_go[-1] - previous.reward)
    executed = memory.action.at[-1].set(previous.action)
    return Memory(
        obs=_append(memory.obs, obs),
        action=_append(executed, jnp.zeros_like(previous.action)),
        return_to_go=_append(memory.return_to_go, return_to_go),
        cost_to_go=_append(memory.cost_to_go, jnp.where(begins, state.target_cost, left)),
        steps=memory.steps + 1,
    )


def act_on(
    hyper: Hyper, net: Transformer, state: State, memory: Memory, as_published: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Mean and log standard deviation `[A]` of the action of the present step."""
    timestep = memory.steps - memory.return_to_go.shape[0] + jnp.arange(len(memory.return_to_go))
    found: Any = net.apply(
        state.params,
        hyper.reward_scale * memory.return_to_go,
        cost_token(hyper, memory.cost_to_go, as_published),
        memory.obs,
        memory.action,
        timestep,
        timestep >= 0,
    )
    return found.mean[-1], found.log_std[-1]


def _append(rows: Array, new: Array) -> jax.Array:
    """Rows `[K, ...]` without the first one, and with a new last one."""
    return jnp.concatenate([rows[1:], new[None]])


def _mean(values: Array, weight: Array) -> jax.Array:
    return weighted_mean(values.ravel(), weight.ravel())
