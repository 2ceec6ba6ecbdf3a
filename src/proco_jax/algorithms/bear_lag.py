"""BEAR-Lag: bootstrapping error reduction (Kumar et al. 2019) with a Lagrangian cost constraint.

A squashed Gaussian policy follows Q - lambda Q_c, while the maximum mean discrepancy (MMD) between
its actions and those of a VAE of the logs stays below a target by a second multiplier. lambda
follows the excess of Q_c over the cost limit (`lagrangian.py`).

What sees imagined rows:
- The cost critics see all rows: with violation-free logs, only imagined rows carry costs.
- The reward critics and the reward term of the policy see logged rows alone, since imagined rewards
  lack goal bonuses and Q is fitted at logged states alone.
- The VAE and the MMD see logged rows alone: imagined actions were chosen to explore, and what the
  logs would do in imagined states is not known.
- The cost term of the policy, and the error that drives lambda, see the states of all rows: where
  the logs are safe, the states from which a violation is near are imagined ones.

`as_published` computes what the code of OSRL (Liu et al. 2023) does: the smaller cost critic, the
largest cost among candidates as backup, cost backups beyond true terminations (see
`lagrangian_critics.py`) and reward backups that end at time limits, no cap on the sum of errors
(see `lagrangian.py`), and the mean as action in place of the best of n samples, which is BEAR's own
rule. Learning rates, coefficients and the factor 0.1 on rewards, by which the gains of lambda were
tuned, are the published ones in both cases. Widths follow this project (128 behind its encoder;
published: 256-256, VAE 400-400), and the four critics of one kind share an encoder.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from proco_jax.algorithms import lagrangian, lagrangian_critics
from proco_jax.algorithms.base import Algorithm, Metrics, Previous
from proco_jax.algorithms.gradient_step import gradient_step
from proco_jax.algorithms.temporal_difference import td_loss
from proco_jax.algorithms.time_limits import require_window
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import BearLagConfig, Config
from proco_jax.models import squashed_gaussian, vae
from proco_jax.models.losses import weighted_mean
from proco_jax.models.networks import Critic, make_encoder
from proco_jax.models.squashed_gaussian import SquashedGaussian
from proco_jax.types import Array, TaskSpec, Transition

# Range of the logarithm of the multiplier of the MMD.
LOG_ALPHA_RANGE = (-5.0, 5.0)


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.BearLagConfig`; `cost_limit` is the task's."""

    learning_rate: Array
    alpha_learning_rate: Array
    discount: Array
    tau: Array
    reward_scale: Array
    kl_weight: Array
    mmd_bandwidth: Array
    mmd_target: Array
    soft_minimum: Array
    cost_limit: Array
    pid: lagrangian.PidHyper


class Networks(NamedTuple):
    """Reward and cost critics, VAE and policy."""

    q: Critic
    qc: Critic
    vae: vae.Networks
    policy: SquashedGaussian


@struct.dataclass
class State:
    """Everything learned by one member.

    Attributes:
      params: `{"q", "qc", "vae", "policy"}`.
      targets: moving averages of q's, qc's and policy's parameters.
      optimizers: Adam's state of each network.
      log_alpha: logarithm of the multiplier of the MMD.
      pid: controller of the multiplier of the cost.
    """

    params: dict[str, Any]
    targets: dict[str, Any]
    optimizers: dict[str, Any]
    log_alpha: Array
    pid: lagrangian.Pid


def make(config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm for a task, with networks and hyperparameters of a config.

    Raises:
      ValueError: with `as_published` and windows of one step.
    """
    settings, nets = config.bear_lag, make_networks(config, task)
    if settings.as_published:
        require_window("bear_lag", config.train.n_step)

    def sample_actions(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous, n: int
    ) -> tuple[Array, Any]:
        samples = squashed_gaussian.sample(nets.policy, state.params["policy"], obs, key, n)
        return jnp.tanh(samples), carry

    def act(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous
    ) -> tuple[Array, Any]:
        if settings.as_published:
            return squashed_gaussian.mean_action(nets.policy, state.params["policy"], obs), carry
        n = settings.samples
        actions, _ = sample_actions(key, hyper, state, carry, obs, previous, n)
        multiplier, as_published = state.pid.multiplier, settings.as_published
        best = lagrangian_critics.best_action(
            nets.q, nets.qc, state.params, obs, actions, multiplier, as_published
        )
        return best, carry

    return Algorithm(
        name="bear_lag",
        batch="transition",
        hyper=hyper_from(
            settings,
            Hyper,
            cost_limit=jnp.float32(task.cost_limit),
            pid=hyper_from(settings, lagrangian.PidHyper),
        ),
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
    settings, actions = config.bear_lag, task.action_size
    encoder = make_encoder(config.encoder, task.observation)
    # Pooling over bins shows a policy that an object is near but blurs its direction.
    flat = encoder.clone(flat=True)
    return Networks(
        q=Critic(encoder, settings.hidden, lagrangian_critics.HEADS),
        qc=Critic(encoder, settings.hidden, lagrangian_critics.HEADS),
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
    targets = {name: jax.tree.map(jnp.copy, params[name]) for name in ("q", "qc", "policy")}
    adam = optax.scale_by_adam()
    optimizers = {name: adam.init(own) for name, own in params.items()}
    return State(params, targets, optimizers, jnp.zeros(()), lagrangian.initial_pid())


def update(
    key: Array,
    hyper: Hyper,
    settings: BearLagConfig,
    nets: Networks,
    episode_steps: int,
    state: State,
    batch: Transition,
) -> tuple[State, Metrics]:
    """One gradient step of each network, in the published order: VAE, critics, policy, targets."""
    vae_key, target_key, policy_key = jax.random.split(key, 3)
    params, optimizers = dict(state.params), dict(state.optimizers)
    logged = jnp.where(batch.imagined, 0.0, batch.weight)
    target_q, target_qc = critic_targets(hyper, settings, nets, state, batch, target_key)

    def descend(name: str, loss: Any) -> Any:
        params[name], optimizers[name], beside = gradient_step(
            loss, params[name], optimizers[name], hyper.learning_rate
        )
        return beside

    def vae_loss(own: Any) -> tuple[jax.Array, Metrics]:
        inputs = (batch.obs, batch.action, logged, vae_key, hyper.kl_weight)
        loss = vae.loss(nets.vae, own, *inputs)
        return loss, {"bear_lag/vae_loss": loss}

    def q_loss(own: Any) -> tuple[jax.Array, Metrics]:
        return td_loss(nets.q, own, batch, target_q, logged, "bear_lag/q")

    def qc_loss(own: Any) -> tuple[jax.Array, Metrics]:
        inputs = (batch, target_qc, batch.weight, "bear_lag/qc")
        return td_loss(nets.qc, own, *inputs)

    def actor_loss(own: Any) -> tuple[jax.Array, tuple[Array, lagrangian.Pid, Metrics]]:
        limit = lagrangian.value_limit(hyper.cost_limit, episode_steps, hyper.discount)
        fixed = dataclasses.replace(state, params=params)
        return policy_loss(hyper, settings, nets, fixed, own, limit, batch, policy_key)

    metrics = descend("vae", vae_loss) | descend("q", q_loss) | descend("qc", qc_loss)
    log_alpha, pid, more = descend("policy", actor_loss)
    targets = {
        name: optax.incremental_update(params[name], state.targets[name], hyper.tau)
        for name in state.targets
    }
    return State(params, targets, optimizers, log_alpha, pid), metrics | more


def critic_targets(
    hyper: Hyper,
    settings: BearLagConfig,
    nets: Networks,
    state: State,
    batch: Transition,
    key: Array,
) -> tuple[jax.Array, jax.Array]:
    """Targets of Q and Q_c `[B]` by n actions of the target policy in the next state."""
    n, policy = settings.samples, state.targets["policy"]
    actions = jnp.tanh(squashed_gaussian.sample(nets.policy, policy, batch.next_obs, key, n))
    multiplier, as_published = state.pid.multiplier, settings.as_published
    return lagrangian_critics.candidate_targets(
        nets.q, nets.qc, state.targets, batch, actions, multiplier, hyper, as_published
    )


def policy_loss(
    hyper: Hyper,
    settings: BearLagConfig,
    nets: Networks,
    state: State,
    policy_params: Any,
    limit: Array,
    batch: Transition,
    key: Array,
) -> tuple[jax.Array, tuple[Array, lagrangian.Pid, Metrics]]:
    """`mean(-Q(s, a) + alpha (MMD - target)) + lambda (mean Q_c(s, a) - limit)`.

    Args:
      state: with the critics and VAE of this step, held fixed, and the multipliers of the last.
      policy_params: of the policy.
      limit: of Q_c, see `lagrangian.value_limit`.

    Returns:
      The loss; the new log alpha, by a step of ascent, lambda's controller, and metrics.
    """
    policy_key, vae_key = jax.random.split(key)
    n = settings.samples
    ours = squashed_gaussian.sample(nets.policy, policy_params, batch.obs, policy_key, n)
    theirs = vae.sample(nets.vae, state.params["vae"], batch.obs, vae_key, n)
    action = jnp.tanh(ours[:, 0])
    q, qc = lagrangian_critics.values(
        nets.q, nets.qc, state.params, batch.obs, action, settings.as_published
    )
    logged = jnp.where(batch.imagined, 0.0, batch.weight)
    far = weighted_mean(mmd(theirs, ours, hyper.mmd_bandwidth) - hyper.mmd_target, logged)
    alpha = jnp.exp(state.log_alpha)
    excess = weighted_mean(qc, batch.weight) - limit
    pid = lagrangian.pid_step(hyper.pid, state.pid, excess, settings.as_published)
    loss = alpha * far - weighted_mean(q, logged) + pid.multiplier * excess
    log_alpha = state.log_alpha + hyper.alpha_learning_rate * alpha * far
    log_alpha = jax.lax.stop_gradient(jnp.clip(log_alpha, *LOG_ALPHA_RANGE))
    metrics = {
        "bear_lag/policy_loss": loss,
        "bear_lag/mmd": far + hyper.mmd_target,
        "bear_lag/alpha": alpha,
        "bear_lag/excess_cost": excess,
        "bear_lag/multiplier": pid.multiplier,
    }
    return loss, (log_alpha, pid, metrics)


def mmd(x: Array, y: Array, bandwidth: Array) -> jax.Array:
    """Maximum mean discrepancy `[B]` of n samples `[B, n, A]` and m samples `[B, m, A]`.

        sqrt(mean k(x, x') - 2 mean k(x, y) + mean k(y, y') + 1e-6),  k = exp(-|x - y|^2 / (2 b))

    Source: BEAR (Kumar et al. 2019); the means include pairs of a sample with itself.
    """
    chex.assert_rank([x, y], 3)

    def mean_kernel(a: Array, b: Array) -> jax.Array:
        distance = jnp.sum(jnp.square(a[:, :, None] - b[:, None]), axis=-1)
        return jnp.mean(jnp.exp(-distance / (2.0 * bandwidth)), axis=(1, 2))

    square = mean_kernel(x, x) - 2.0 * mean_kernel(x, y) + mean_kernel(y, y)
    # Rounding may bring the difference of almost equal samples below 0.
    return jnp.sqrt(jnp.maximum(square, 0.0) + 1e-6)
