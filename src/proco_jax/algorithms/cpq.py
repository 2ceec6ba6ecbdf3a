"""CPQ: constraints penalized Q-learning (Xu, Zhan and Zhu 2022).

A squashed Gaussian policy follows a reward critic whose backup ends where the cost value of the
next action exceeds the cost limit (the gate is closed). The cost critic is pushed up at actions
that a VAE of the logs finds rare, so that they count as unsafe.

What sees imagined rows:
- The cost critics see all rows: with violation-free logs, only imagined rows carry costs.
- The reward critics see all rows, since the gate in their backup is what brings costs into values,
  and since nothing else in CPQ tells what actions unlike the logged ones give. Imagined rewards
  lack goal bonuses, so values near goals are a little too low.
- The policy is trained in the states of all rows.
- The VAE and the push see logged rows alone: rare is what the logs do not do, and imagined rows
  show for their actions whether they are unsafe.

By default the policy descends Q_c where the gate is closed, with the weight `violation_weight`.
Published, such states teach the policy nothing, and it would learn from generated costs only
through the values of states before. On costs of 0 with an open gate the two are equal.

`as_published` computes what the code of OSRL (Liu et al. 2023) does: no such descent; a push
computed with the target critic, thus without gradient; rare actions drawn before the tanh, and
thus possibly beyond the range of actions; the smaller of two cost critics in place of the larger;
cost backups beyond true terminations, and reward backups that end at time limits. Its push has no
bound, and hits the rarest quarter of the policy's own actions, however usual they are; it compares
the target with the sum of their costs over the number of all samples, i.e. with a quarter of their
mean. With a gradient, the backups of costs carry this into all values, and the gate closes
everywhere, even where nothing costs. So by default rare is what has a larger divergence than 99% of
the logged actions, and the push ends at its target.

Learning rates and coefficients are the published ones in both cases, as is the factor 0.1 on
rewards. Widths follow this project (128 behind its encoder; published: 256-256, VAE 400-400), and
the two critics of one kind share an encoder.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms.base import Algorithm, Metrics, Previous
from proco_jax.algorithms.gradient_step import gradient_step
from proco_jax.algorithms.lagrangian import value_limit
from proco_jax.algorithms.temporal_difference import td_loss, td_targets
from proco_jax.algorithms.time_limits import require_window
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import Config, CpqConfig
from proco_jax.models import squashed_gaussian, vae
from proco_jax.models.losses import weighted_mean
from proco_jax.models.networks import Critic, apply, make_encoder
from proco_jax.models.squashed_gaussian import SquashedGaussian
from proco_jax.types import Array, TaskSpec, Transition

# Range of the logarithm of the weight of the push.
LOG_ALPHA_RANGE = (-5.0, 5.0)


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.CpqConfig`; `cost_limit` is the task's."""

    learning_rate: Array
    policy_learning_rate: Array
    alpha_learning_rate: Array
    discount: Array
    tau: Array
    reward_scale: Array
    kl_weight: Array
    rare_share: Array
    rare_quantile: Array
    push_target: Array
    violation_weight: Array
    cost_limit: Array


class Networks(NamedTuple):
    """Reward and cost critics with two heads each, VAE and policy."""

    q: Critic
    qc: Critic
    vae: vae.Networks
    policy: SquashedGaussian


@struct.dataclass
class State:
    """Everything learned by one member.

    Attributes:
      params: `{"q", "qc", "vae", "policy"}`.
      targets: moving averages of q's and qc's parameters.
      optimizers: Adam's state of each network.
      log_alpha: logarithm of the weight of the push.
    """

    params: dict[str, Any]
    targets: dict[str, Any]
    optimizers: dict[str, Any]
    log_alpha: Array


def make(config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm for a task, with networks and hyperparameters of a config.

    Raises:
      ValueError: with `as_published` and windows of one step.
    """
    settings, nets = config.cpq, make_networks(config, task)
    if settings.as_published:
        require_window("cpq", config.train.n_step)

    def sample_actions(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous, n: int
    ) -> tuple[Array, Any]:
        samples = squashed_gaussian.sample(nets.policy, state.params["policy"], obs, key, n)
        return jnp.tanh(samples), carry

    def act(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous
    ) -> tuple[Array, Any]:
        return squashed_gaussian.mean_action(nets.policy, state.params["policy"], obs), carry

    return Algorithm(
        name="cpq",
        batch="transition",
        hyper=hyper_from(settings, Hyper, cost_limit=jnp.float32(task.cost_limit)),
        init=lambda key, hyper: init(nets, key),
        update=lambda key, hyper, state, batch: update(
            key, hyper, settings, nets, task.episode_steps, state, batch
        ),
        initial_carry=lambda: (),
        act=act,
        sample_actions=sample_actions,
    )


def make_networks(config: Config, task: TaskSpec) -> Networks:
    """The networks of a config for a task."""
    settings, actions = config.cpq, task.action_size
    encoder = make_encoder(config.encoder, task.observation)
    # Pooling over bins shows a policy that an object is near but blurs its direction.
    flat = encoder.clone(flat=True)
    return Networks(
        q=Critic(encoder, settings.hidden, 2),
        qc=Critic(encoder, settings.hidden, 2),
        vae=vae.make_networks(flat, settings.vae_hidden, actions),
        policy=SquashedGaussian(flat, settings.hidden, actions),
    )


def init(nets: Networks, key: Array) -> State:
    """A fresh state."""
    q_key, qc_key, vae_key, policy_key = jax.random.split(key, 4)
    obs, action = jnp.zeros(nets.q.encoder.spec.size), jnp.zeros(nets.policy.actions)
    params: dict[str, Any] = {
        "q": nets.q.init(q_key, obs, action),
        "qc": nets.qc.init(qc_key, obs, action),
        "vae": vae.init(nets.vae, vae_key),
        "policy": nets.policy.init(policy_key, obs),
    }
    targets = {name: jax.tree.map(jnp.copy, params[name]) for name in ("q", "qc")}
    adam = optax.scale_by_adam()
    optimizers = {name: adam.init(own) for name, own in params.items()}
    return State(params, targets, optimizers, jnp.zeros(()))


def update(
    key: Array,
    hyper: Hyper,
    settings: CpqConfig,
    nets: Networks,
    episode_steps: int,
    state: State,
    batch: Transition,
) -> tuple[State, Metrics]:
    """One gradient step of each network, in the published order: VAE, critics, policy, targets."""
    vae_key, next_key, rare_key, policy_key = jax.random.split(key, 4)
    limit = value_limit(hyper.cost_limit, episode_steps, hyper.discount)
    params, optimizers = dict(state.params), dict(state.optimizers)
    logged = jnp.where(batch.imagined, 0.0, batch.weight)
    alpha = jnp.exp(state.log_alpha)
    policy = state.params["policy"]
    next_action = _one_action(nets, policy, batch.next_obs, next_key)
    target_q, target_qc = critic_targets(
        hyper, settings, nets, state.targets, limit, batch, next_action
    )

    def descend(name: str, loss: Any, rate: Array = hyper.learning_rate) -> Any:
        params[name], optimizers[name], beside = gradient_step(
            loss, params[name], optimizers[name], rate
        )
        return beside

    def vae_loss(own: Any) -> tuple[jax.Array, Metrics]:
        inputs = (batch.obs, batch.action, logged, vae_key, hyper.kl_weight)
        loss = vae.loss(nets.vae, own, *inputs)
        return loss, {"cpq/vae_loss": loss}

    def q_loss(own: Any) -> tuple[jax.Array, Metrics]:
        return td_loss(nets.q, own, batch, target_q, batch.weight, "cpq/q")

    def qc_loss(own: Any) -> tuple[jax.Array, tuple[Array, Metrics]]:
        loss, metrics = td_loss(nets.qc, own, batch, target_qc, batch.weight, "cpq/qc")
        critic = state.targets["qc"] if settings.as_published else own
        push, gap = push_loss(hyper, settings, nets, params, critic, limit, batch, rare_key)
        return loss + alpha * push, (gap, metrics | {"cpq/push_loss": push})

    def actor_loss(own: Any) -> tuple[jax.Array, Metrics]:
        return policy_loss(hyper, settings, nets, params, own, limit, batch, policy_key)

    metrics = descend("vae", vae_loss) | descend("q", q_loss)
    gap, more = descend("qc", qc_loss)
    metrics |= more | descend("policy", actor_loss, hyper.policy_learning_rate)
    log_alpha = state.log_alpha + hyper.alpha_learning_rate * alpha * gap
    log_alpha = jnp.clip(log_alpha, *LOG_ALPHA_RANGE)
    targets = {
        name: optax.incremental_update(params[name], state.targets[name], hyper.tau)
        for name in state.targets
    }
    return State(params, targets, optimizers, log_alpha), metrics | {"cpq/alpha": alpha}


def critic_targets(
    hyper: Hyper,
    settings: CpqConfig,
    nets: Networks,
    targets: dict[str, Any],
    limit: Array,
    batch: Transition,
    next_action: Array,
) -> tuple[jax.Array, jax.Array]:
    """`r + g 1[Q_c' <= limit] Q'` and `c + g Q_c'`, each `[B]`, see `td_targets`."""
    q = jnp.min(apply(nets.q, targets["q"], batch.next_obs, next_action), axis=-1)
    heads = apply(nets.qc, targets["qc"], batch.next_obs, next_action)
    qc = cost_value(heads, settings.as_published)
    gated = jnp.where(qc <= limit, q, 0.0)
    return td_targets(batch, gated, qc, hyper.discount, hyper.reward_scale, settings.as_published)


def push_loss(
    hyper: Hyper,
    settings: CpqConfig,
    nets: Networks,
    params: dict[str, Any],
    critic: Any,
    limit: Array,
    batch: Transition,
    key: Array,
) -> tuple[jax.Array, jax.Array]:
    """Mean of `relu(target - Q_c)` and of `target - Q_c` over the policy's rare actions.

    Rare are actions in logged states with a larger divergence than `rare_quantile` of the logged
    ones. Published, they are the rarest `rare_share` of the policy's own, there is no relu, and the
    mean is that of all sampled actions, of which the others count with a Q_c of 0.

    Args:
      params: of the policy and the VAE, held fixed.
      critic: parameters of the cost critic.
      limit: of which the target is `push_target` times.
    """
    policy = params["policy"]
    action = squashed_gaussian.sample(nets.policy, policy, batch.obs, key, settings.samples)
    action = jax.lax.stop_gradient(action if settings.as_published else jnp.tanh(action))
    obs = jnp.broadcast_to(batch.obs[:, None], (*action.shape[:2], batch.obs.shape[-1]))
    divergence = vae.divergence(nets.vae, params["vae"], obs, action)
    logged = jnp.where(batch.imagined, 0.0, batch.weight)
    if settings.as_published:
        among, quantile = jnp.where(logged[:, None] > 0, divergence, jnp.nan), 1 - hyper.rare_share
    else:
        usual = vae.divergence(nets.vae, params["vae"], batch.obs, batch.action)
        among, quantile = jnp.where(logged > 0, usual, jnp.nan), hyper.rare_quantile
    rare = divergence >= jnp.nanquantile(among, quantile)
    heads = apply(nets.qc, critic, obs, action)
    if settings.as_published:
        qc = jnp.where(rare, jnp.min(heads, axis=-1), 0.0)
        weight = jnp.broadcast_to(logged[:, None], qc.shape).ravel()
    else:
        qc = jnp.mean(heads, axis=-1)
        weight = jnp.where(rare, logged[:, None], 0.0).ravel()
    gap = hyper.push_target * limit - qc.ravel()
    push = gap if settings.as_published else jax.nn.relu(gap)
    return weighted_mean(push, weight), jax.lax.stop_gradient(weighted_mean(gap, weight))


def policy_loss(
    hyper: Hyper,
    settings: CpqConfig,
    nets: Networks,
    params: dict[str, Any],
    policy_params: Any,
    limit: Array,
    batch: Transition,
    key: Array,
) -> tuple[jax.Array, Metrics]:
    """`-mean 1[Q_c <= limit] Q`, and where the gate is closed, by default, `violation_weight Q_c`.

    Args:
      params: of the critics, held fixed.
      policy_params: of the policy.

    The descent is ours, not part of CPQ.
    """
    action = _one_action(nets, policy_params, batch.obs, key)
    q = jnp.min(apply(nets.q, params["q"], batch.obs, action), axis=-1)
    heads = apply(nets.qc, params["qc"], batch.obs, action)
    qc = cost_value(heads, settings.as_published)
    gate = qc <= limit
    weight = 0.0 if settings.as_published else hyper.violation_weight
    loss = weighted_mean(jnp.where(gate, -q, weight * qc), batch.weight)
    share = weighted_mean(gate.astype(jnp.float32), batch.weight)
    return loss, {"cpq/policy_loss": loss, "cpq/gate_open": share}


def cost_value(heads: Array, as_published: bool) -> jax.Array:
    """Q_c, the larger of two heads, or the smaller `as_published`: `[..., 2]` to `[...]`."""
    return jnp.min(heads, axis=-1) if as_published else jnp.max(heads, axis=-1)


def _one_action(nets: Networks, policy_params: Any, obs: Array, key: Array) -> jax.Array:
    """An action of the policy in each state `[B, O]`."""
    return jnp.tanh(squashed_gaussian.sample(nets.policy, policy_params, obs, key, 1)[:, 0])
