"""BCQ-Lag: batch-constrained Q-learning (Fujimoto et al. 2019) with a Lagrangian cost constraint.

A conditional VAE proposes actions like those of the logs, a perturbation network shifts each by
`perturbation` at most, towards larger Q - lambda Q_c. lambda follows the excess of Q_c over the
cost limit (`lagrangian.py`). The policy takes the best of several proposals.

What sees imagined rows:
- The cost critics see all rows: with violation-free logs, only imagined rows carry costs.
- The reward critics and the reward term of the policy see logged rows alone, since imagined rewards
  lack goal bonuses and Q is fitted at logged states alone.
- The VAE sees logged rows alone, since imagined actions were chosen to explore.
- The cost term of the policy, and the error that drives lambda, see the states of all rows: where
  the logs are safe, the states from which a violation is near are imagined ones.

`as_published` computes what the code of OSRL (Liu et al. 2023) does: the smaller cost critic, the
largest cost among candidates as backup, cost backups beyond true terminations (see
`lagrangian_critics.py`) and reward backups that end at time limits, no cap on the sum of errors
(see `lagrangian.py`), and a single proposal as action in place of the best of n, which is BCQ's own
rule. Learning rates, coefficients and the factor 0.1 on rewards, by which the gains of lambda were
tuned, are the published ones in both cases. Widths follow this project (128 behind its encoder;
published: 256-256, VAE 400-400), the hidden layers of the perturbation network are ReLU (published:
tanh), and the four critics of one kind share an encoder.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from proco_jax.algorithms import lagrangian, lagrangian_critics
from proco_jax.algorithms.base import Algorithm, Metrics, Previous
from proco_jax.algorithms.gradient_step import gradient_step
from proco_jax.algorithms.temporal_difference import td_loss
from proco_jax.algorithms.time_limits import require_window
from proco_jax.common.hyperparameters import hyper_from
from proco_jax.config.schema import BcqLagConfig, Config
from proco_jax.models import vae
from proco_jax.models.losses import weighted_mean
from proco_jax.models.networks import (
    Critic,
    Encoder,
    Heads,
    apply,
    make_encoder,
    with_saturation,
)
from proco_jax.types import Array, TaskSpec, Transition


class Hyper(NamedTuple):
    """Hyperparameters, see `config.schema.BcqLagConfig`; `cost_limit` is the task's."""

    learning_rate: Array
    discount: Array
    tau: Array
    reward_scale: Array
    kl_weight: Array
    perturbation: Array
    soft_minimum: Array
    cost_limit: Array
    pid: lagrangian.PidHyper


class Perturbation(nn.Module):
    """The direction in which an action is shifted, in [-1, 1]: `[..., A]`."""

    encoder: Encoder
    hidden: tuple[int, ...]
    actions: int

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        features = self.encoder(obs, with_saturation(action))
        return jnp.tanh(Heads(self.hidden, 1, self.actions)(features)[..., 0, :])


class Networks(NamedTuple):
    """Reward and cost critics, VAE and perturbation."""

    q: Critic
    qc: Critic
    vae: vae.Networks
    policy: Perturbation


@struct.dataclass
class State:
    """Everything learned by one member.

    Attributes:
      params: `{"q", "qc", "vae", "policy"}`.
      targets: moving averages of q's, qc's and policy's parameters.
      optimizers: Adam's state of each network.
      pid: controller of the multiplier.
    """

    params: dict[str, Any]
    targets: dict[str, Any]
    optimizers: dict[str, Any]
    pid: lagrangian.Pid


def make(config: Config, task: TaskSpec) -> Algorithm:
    """The algorithm for a task, with networks and hyperparameters of a config.

    Raises:
      ValueError: with `as_published` and windows of one step.
    """
    settings, nets = config.bcq_lag, make_networks(config, task)
    if settings.as_published:
        require_window("bcq_lag", config.train.n_step)

    def sample_actions(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous, n: int
    ) -> tuple[Array, Any]:
        return propose(hyper, nets, state.params, state.params["policy"], obs, key, n), carry

    def act(
        key: Array, hyper: Hyper, state: State, carry: Any, obs: Array, previous: Previous
    ) -> tuple[Array, Any]:
        n = 1 if settings.as_published else settings.samples
        actions, _ = sample_actions(key, hyper, state, carry, obs, previous, n)
        multiplier, as_published = state.pid.multiplier, settings.as_published
        best = lagrangian_critics.best_action(
            nets.q, nets.qc, state.params, obs, actions, multiplier, as_published
        )
        return best, carry

    return Algorithm(
        name="bcq_lag",
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
    settings, actions = config.bcq_lag, task.action_size
    encoder = make_encoder(config.encoder, task.observation)
    # Pooling over bins shows a policy that an object is near but blurs its direction.
    flat = encoder.clone(flat=True)
    return Networks(
        q=Critic(encoder, settings.hidden, lagrangian_critics.HEADS),
        qc=Critic(encoder, settings.hidden, lagrangian_critics.HEADS),
        vae=vae.make_networks(flat, settings.vae_hidden, actions),
        policy=Perturbation(flat, settings.hidden, actions),
    )


def init(nets: Networks, key: Array) -> State:
    """A fresh state."""
    q_key, qc_key, vae_key, policy_key = jax.random.split(key, 4)
    obs, action = jnp.zeros(nets.q.encoder.spec.size), jnp.zeros(nets.policy.actions)
    params: dict[str, Any] = {
        "q": nets.q.init(q_key, obs, action),
        "qc": nets.qc.init(qc_key, obs, action),
        "vae": vae.init(nets.vae, vae_key),
        "policy": nets.policy.init(policy_key, obs, action),
    }
    targets = {name: jax.tree.map(jnp.copy, params[name]) for name in ("q", "qc", "policy")}
    adam = optax.scale_by_adam()
    optimizers = {name: adam.init(own) for name, own in params.items()}
    return State(params, targets, optimizers, lagrangian.initial_pid())


def update(
    key: Array,
    hyper: Hyper,
    settings: BcqLagConfig,
    nets: Networks,
    episode_steps: int,
    state: State,
    batch: Transition,
) -> tuple[State, Metrics]:
    """One gradient step of each network, in the published order: VAE, critics, policy, targets."""
    vae_key, target_key, policy_key = jax.random.split(key, 3)
    params, optimizers = dict(state.params), dict(state.optimizers)
    logged = jnp.where(batch.imagined, 0.0, batch.weight)

    def descend(name: str, loss: Any) -> Any:
        params[name], optimizers[name], beside = gradient_step(
            loss, params[name], optimizers[name], hyper.learning_rate
        )
        return beside

    def vae_loss(own: Any) -> tuple[jax.Array, Metrics]:
        inputs = (batch.obs, batch.action, logged, vae_key, hyper.kl_weight)
        loss = vae.loss(nets.vae, own, *inputs)
        return loss, {"bcq_lag/vae_loss": loss}

    def q_loss(own: Any) -> tuple[jax.Array, Metrics]:
        return td_loss(nets.q, own, batch, target_q, logged, "bcq_lag/q")

    def qc_loss(own: Any) -> tuple[jax.Array, Metrics]:
        inputs = (batch, target_qc, batch.weight, "bcq_lag/qc")
        return td_loss(nets.qc, own, *inputs)

    def actor_loss(own: Any) -> tuple[jax.Array, tuple[lagrangian.Pid, Metrics]]:
        limit = lagrangian.value_limit(hyper.cost_limit, episode_steps, hyper.discount)
        return policy_loss(hyper, settings, nets, params, own, state.pid, limit, batch, policy_key)

    metrics = descend("vae", vae_loss)
    target_q, target_qc = critic_targets(
        hyper, settings, nets, state, params["vae"], batch, target_key
    )
    metrics |= descend("q", q_loss) | descend("qc", qc_loss)
    pid, more = descend("policy", actor_loss)
    targets = {
        name: optax.incremental_update(params[name], state.targets[name], hyper.tau)
        for name in state.targets
    }
    return State(params, targets, optimizers, pid), metrics | more


def critic_targets(
    hyper: Hyper,
    settings: BcqLagConfig,
    nets: Networks,
    state: State,
    vae_params: Any,
    batch: Transition,
    key: Array,
) -> tuple[jax.Array, jax.Array]:
    """Targets of Q and Q_c `[B]` by n proposals in the next state, shifted by the target policy."""
    own = state.params | {"vae": vae_params}
    n, policy = settings.samples, state.targets["policy"]
    actions = propose(hyper, nets, own, policy, batch.next_obs, key, n)
    multiplier, as_published = state.pid.multiplier, settings.as_published
    return lagrangian_critics.candidate_targets(
        nets.q, nets.qc, state.targets, batch, actions, multiplier, hyper, as_published
    )


def policy_loss(
    hyper: Hyper,
    settings: BcqLagConfig,
    nets: Networks,
    params: dict[str, Any],
    policy_params: Any,
    pid: lagrangian.Pid,
    limit: Array,
    batch: Transition,
    key: Array,
) -> tuple[jax.Array, tuple[lagrangian.Pid, Metrics]]:
    """`-mean Q(s, a) + lambda (mean Q_c(s, a) - limit)`, a one proposal; and lambda's controller.

    Args:
      params: of critics and VAE, held fixed.
      policy_params: of the perturbation.
      pid: before this step.
      limit: of Q_c, see `lagrangian.value_limit`.
    """
    action = propose(hyper, nets, params, policy_params, batch.obs, key, 1)[:, 0]
    q, qc = lagrangian_critics.values(
        nets.q, nets.qc, params, batch.obs, action, settings.as_published
    )
    excess = weighted_mean(qc, batch.weight) - limit
    pid = lagrangian.pid_step(hyper.pid, pid, excess, settings.as_published)
    logged = jnp.where(batch.imagined, 0.0, batch.weight)
    loss = -weighted_mean(q, logged) + pid.multiplier * excess
    metrics = {
        "bcq_lag/policy_loss": loss,
        "bcq_lag/excess_cost": excess,
        "bcq_lag/multiplier": pid.multiplier,
    }
    return loss, (pid, metrics)


def propose(
    hyper: Hyper,
    nets: Networks,
    params: dict[str, Any],
    policy_params: Any,
    obs: Array,
    key: Array,
    n: int,
) -> jax.Array:
    """n actions like those of the logs, each shifted: `[..., n, A]` for obs `[..., O]`."""
    action = jnp.tanh(vae.sample(nets.vae, params["vae"], obs, key, n))
    repeated = jnp.broadcast_to(obs[..., None, :], (*action.shape[:-1], obs.shape[-1]))
    shift = hyper.perturbation * apply(nets.policy, policy_params, repeated, action)
    return jnp.clip(action + shift, -1.0, 1.0)
