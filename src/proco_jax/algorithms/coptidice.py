"""COptiDICE: constrained offline RL by correcting the distribution of the logs (Lee et al. 2022).

It finds the distribution of states and actions that maximizes the reward, minus alpha times an
f-divergence from the data, under a limit on the cost, as weights w(s, a) of the data's rows:

    e(s, a) = r - lambda c + g nu(s') - nu(s)          advantage under the multiplier lambda
    w(s, a) = f'^-1(e / alpha)                         f: soft chi-squared divergence
    nu      minimizes (1 - g) E[nu(s0)] + alpha E[f*(e / alpha)]
    chi     tightens an upper confidence bound of the cost E[w c] over all distributions of rows
            within a divergence kl_limit of the data; tau is the multiplier of that limit
    lambda  rises while that bound exceeds the limit
    policy  maximizes E[w log pi(a | s)]

Initial states are the `initial_obs` of logged rows, i.e. drawn in proportion to the length of
episodes; no flag of initial rows is needed. Imagined rows belong to the data in nu, chi, w, tau and
lambda, since they alone show which actions lead to unsafe states: they make the constraint bind and
lower nu where only violations follow, which takes weight from logged rows that lead there. They are
no initial states. Their rewards lack goal bonuses, so w underestimates them. In the policy's loss
they have the factor `imagined_weight`, since their actions were chosen to explore. A rollout ends
in a state that no row continues; nu is pushed down there, so that w is pessimistic about the last
step. Without any cost lambda falls to 0, and what remains is OptiDICE (Lee et al. 2021).

Differences from OSRL's code: the ring encoder, a larger learning rate, alpha in units of unscaled
rewards (there 0.5 with rewards times 0.1, i.e. 5; 0.01 in the authors' code), a policy whose mean
is bounded and which acts by its samples; losses of one step see the same parameters (there the
policy's w is that of the nu just updated). The defaults correct four defects, which
`coptidice.as_published` keeps:

- the limit is `cost_limit` per step, the unit of E[w c]; published is the limit of a discounted
  sum, a hundred times as large at a discount of 0.99;
- the actions are those of the Gaussian that was fitted; published is tanh of its mean, which turns
  a fitted action of 1 into 0.76;
- time limits are no terminations; published they are;
- the gradient of chi's loss is that of the upper bound; published, in the authors' code too, it
  passes through the shares of the rows as well, and thus differs from the bound's.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms.base import Algorithm, Metrics, Previous
from proco_jax.algorithms.time_limits import end_at_time_limits, require_window
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import Config
from proco_jax.models.networks import (
    Critic,
    GaussianPolicy,
    apply,
    log_probability,
    make_encoder,
    sample_gaussian,
)
from proco_jax.types import Array, TaskSpec, Transition


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.CoptidiceConfig`; `limit` is the bound of E[w c]."""

    learning_rate: Array
    multiplier_learning_rate: Array
    discount: Array
    alpha: Array
    kl_limit: Array
    noise: Array
    imagined_weight: Array
    limit: Array


class Networks(NamedTuple):
    """nu and chi, two heads each of which the lower one counts, and the policy."""

    nu: Critic
    chi: Critic
    policy: GaussianPolicy


@struct.dataclass
class State:
    """Everything learned by one member.

    Attributes:
      params: `{"nu", "chi", "policy", "multipliers"}`; the last is `{"lam", "tau"}`, numbers before
        a softplus.
      optimizer: Adam's state for `params`.
      step: gradient steps done.
    """

    params: Any
    optimizer: optax.OptState
    step: Array


def make(config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm for a task, with networks and hyperparameters of a config.

    Raises:
      ValueError: with `as_published` and windows of one step.
    """
    settings = config.coptidice
    nets = make_networks(config, task)
    decay = optax.cosine_decay_schedule(1.0, config.train.steps)
    if settings.as_published:
        require_window("coptidice", config.train.n_step)
    limit = cost_limit(task, settings.discount, settings.as_published)

    def sample_actions(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous, n: int
    ) -> tuple[Array, Any]:
        params = state.params["policy"]
        if not settings.as_published:
            return sample_gaussian(nets.policy, params, obs, key, n), carry
        mean, log_std = apply(nets.policy, params, obs)
        noise = jax.random.normal(key, (n, *mean.shape))
        return jnp.tanh(mean + jnp.exp(log_std) * noise), carry

    def act(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous
    ) -> tuple[Array, Any]:
        if settings.as_published:
            return jnp.tanh(apply(nets.policy, state.params["policy"], obs)[0]), carry
        return sample_actions(key, hyper, state, carry, obs, previous, 1)[0][0], carry

    return Algorithm(
        name="coptidice",
        batch="transition",
        hyper=hyper_from(settings, Hyper, limit=jnp.float32(limit)),
        init=lambda key, hyper: init(nets, key),
        update=lambda key, hyper, state, batch: update(
            key, hyper, nets, state, batch, settings.as_published, decay(state.step)
        ),
        initial_carry=lambda: (),
        act=act,
        sample_actions=sample_actions,
    )


def cost_limit(task: TaskSpec, discount: float, as_published: bool) -> float:
    """The limit of E[w c], which is a mean cost per step.

    Published is the limit of a discounted sum of costs, (1 - g^T) / (1 - g) times as large.
    """
    per_step = task.cost_limit / task.episode_steps
    steps = (1.0 - discount**task.episode_steps) / (1.0 - discount)
    return per_step * steps if as_published else per_step


def make_networks(config: Config, task: TaskSpec) -> Networks:
    """The networks of a config for a task."""
    encoder = make_encoder(config.encoder, task.observation)
    hidden = config.coptidice.hidden
    return Networks(
        nu=Critic(encoder, hidden, 2),
        chi=Critic(encoder, hidden, 2),
        # Pooling over bins shows a policy that an object is near but blurs its direction.
        policy=GaussianPolicy(encoder.clone(flat=True), hidden, task.action_size),
    )


def init(nets: Networks, key: Array) -> State:
    """A fresh state."""
    obs = jnp.zeros(nets.nu.encoder.spec.size)
    keys = jax.random.split(key, len(nets))
    params = {name: net.init(k, obs) for name, net, k in zip(nets._fields, nets, keys, strict=True)}
    params["multipliers"] = {"lam": jnp.float32(1.0), "tau": jnp.float32(1.0)}
    return State(params, optax.scale_by_adam().init(params), jnp.int32(0))


def update(
    key: Array,
    hyper: Hyper,
    nets: Networks,
    state: State,
    batch: Transition,
    as_published: bool = False,
    rate: Array | float = 1.0,
) -> tuple[State, Metrics]:
    """One gradient step of nu, chi, both multipliers, and the policy.

    Args:
      key: of the noise in the policy's inputs and targets.
      rate: factor on the learning rate of the networks.
    """
    if as_published:
        batch = end_at_time_limits(batch)

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        return total_loss(key, hyper, nets, params, batch, as_published)

    grads, metrics = jax.grad(loss, has_aux=True)(state.params)
    updates, optimizer = optax.scale_by_adam().update(grads, state.optimizer)
    assert isinstance(updates, dict)
    rates = {name: hyper.learning_rate * rate for name in updates}
    rates["multipliers"] = hyper.multiplier_learning_rate
    updates = {
        name: jax.tree.map(lambda x, own=rates[name]: -own * x, tree)
        for name, tree in updates.items()
    }
    params: Any = optax.apply_updates(state.params, updates)
    return State(params, optimizer, state.step + 1), metrics


def total_loss(
    key: Array,
    hyper: Hyper,
    nets: Networks,
    params: Any,
    batch: Transition,
    as_published: bool = False,
) -> tuple[jax.Array, Metrics]:
    """The sum of the five losses, each with the gradient of its own parameters alone.

    By default the gradient of chi's loss is that of the bound that it tightens, the maximum of
    `sum share ell - tau KL` over shares, in which the maximizing shares are constants. Published,
    it passes through the shares, though not through their divergence.
    """
    rows = jnp.maximum(jnp.sum(batch.weight), 1.0)
    logged = jnp.where(batch.imagined, 0.0, batch.weight)
    # Weights with which rows count as initial states, of mean 1 over all rows.
    initial = logged * rows / jnp.maximum(jnp.sum(logged), 1.0)
    lam, tau = (jax.nn.softplus(params["multipliers"][name]) for name in ("lam", "tau"))

    advantage = advantages(hyper, nets, params, batch, jax.lax.stop_gradient(lam))
    nu_initial = value(nets.nu, params["nu"], batch.initial_obs)
    dual = hyper.alpha * conjugate(advantage / hyper.alpha)
    nu_loss = jnp.sum((1.0 - hyper.discount) * initial * nu_initial + batch.weight * dual) / rows
    w = jax.lax.stop_gradient(density_ratio(advantage / hyper.alpha))

    chi, next_chi, chi_initial = (
        value(nets.chi, params["chi"], obs)
        for obs in (batch.obs, batch.next_obs, batch.initial_obs)
    )
    flow = batch.cost + hyper.discount * batch.discount * next_chi - chi
    # Rows of weight 0 are left out below, so the division is by the weight of a row that counts.
    start = initial / jnp.maximum(batch.weight, 1e-6)
    ell = (1.0 - hyper.discount) * start * chi_initial + w * flow
    of_chi, divergence = worst_rows(ell, batch.weight, jax.lax.stop_gradient(tau))
    share, divergence = jax.lax.stop_gradient((of_chi, divergence))
    chi_loss = jnp.sum((of_chi if as_published else share) * ell)
    cost_bound = jnp.sum(share * w * batch.cost)
    tau_loss = tau * (hyper.kl_limit - divergence)
    lam_loss = lam * (hyper.limit - cost_bound)

    cloning = cloning_loss(key, hyper, nets, params, batch, w)
    metrics = {
        "coptidice/nu_loss": nu_loss,
        "coptidice/chi_loss": chi_loss,
        "coptidice/tau_loss": tau_loss,
        "coptidice/lam_loss": lam_loss,
        "coptidice/policy_loss": cloning,
        "coptidice/lam": lam,
        "coptidice/tau": tau,
        "coptidice/cost_bound": cost_bound,
        "coptidice/weight": jnp.sum(batch.weight * w) / rows,
    }
    return nu_loss + chi_loss + tau_loss + lam_loss + cloning, metrics


def advantages(
    hyper: Hyper, nets: Networks, params: Any, batch: Transition, lam: Array
) -> jax.Array:
    """e `[B]`, with the gradient of nu."""
    nu = value(nets.nu, params["nu"], batch.obs)
    next_nu = value(nets.nu, params["nu"], batch.next_obs)
    return batch.reward - lam * batch.cost + hyper.discount * batch.discount * next_nu - nu


def value(net: Critic, params: Any, obs: Array) -> jax.Array:
    """The lower one of two heads, `[B]`."""
    return jnp.min(apply(net, params, obs), axis=-1)


def density_ratio(x: Array) -> jax.Array:
    """f'^-1 of the soft chi-squared divergence: exp(x) below 0, x + 1 above.

    Source: OptiDICE (Lee et al. 2021), appendix; f(w) is w (log w - 1) + 1 below 1 and
    (w - 1)^2 / 2 above.
    """
    return jnp.where(x < 0, jnp.exp(jnp.minimum(x, 0.0)), x + 1.0)


def conjugate(x: Array) -> jax.Array:
    """f*(x) = max over w of w x - f(w), whose derivative is `density_ratio`."""
    return jnp.where(x < 0, jnp.exp(jnp.minimum(x, 0.0)) - 1.0, x + 0.5 * jnp.square(x))


def worst_rows(ell: Array, weight: Array, tau: Array) -> tuple[jax.Array, jax.Array]:
    """The distribution of rows that maximizes E[ell] - tau KL, and its divergence from the data.

    Args:
      ell: `[B]`.
      weight: `[B]` of the rows in the data; rows of weight 0 get a share of 0.
      tau: price of the divergence.

    Returns:
      Shares `[B]`, whose sum is 1, and the divergence, a scalar.

    Source: COptiDICE (Lee et al. 2022), section 4.2.
    """
    chex.assert_equal_shape([ell, weight])
    data = weight / jnp.maximum(jnp.sum(weight), 1e-6)
    exponent = ell / jnp.maximum(tau, 1e-6)
    logits = jnp.where(weight > 0, exponent + jnp.log(jnp.maximum(data, 1e-30)), -1e30)
    share = jnp.where(weight > 0, jax.nn.softmax(logits), 0.0)
    divergence = jnp.sum(share * (exponent - jax.nn.logsumexp(logits)))
    return share, divergence


def cloning_loss(
    key: Array, hyper: Hyper, nets: Networks, params: Any, batch: Transition, w: Array
) -> jax.Array:
    """Negative log-likelihood of the rows' actions with weights w.

    Observations and actions are blurred by `noise` times their standard deviation in the batch, as
    in OSRL's code.
    """
    obs_key, action_key = jax.random.split(key)

    def blurred(x: Array, key: Array) -> jax.Array:
        return x + hyper.noise * jnp.std(x, axis=0) * jax.random.normal(key, x.shape)

    share = jnp.where(batch.imagined, hyper.imagined_weight, 1.0)
    obs, action = blurred(batch.obs, obs_key), blurred(batch.action, action_key)
    log_prob = log_probability(nets.policy, params["policy"], obs, action)
    weight = share * batch.weight * w
    return -jnp.sum(weight * log_prob) / jnp.maximum(jnp.sum(batch.weight), 1.0)
