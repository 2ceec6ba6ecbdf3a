"""All members of a dynamics ensemble at once, as the training program fits them one by one."""

import dataclasses

import jax
import jax.numpy as jnp

from proco_jax.config.schema import DynamicsConfig
from proco_jax.models.dynamics import (
    DynamicsState,
    Member,
    Step,
    members_of,
    update_member,
    validate_member,
)
from proco_jax.models.dynamics_targets import Targets
from proco_jax.models.networks import DynamicsNetwork
from proco_jax.models.normalizer import Normalizer
from proco_jax.types import Array, Dataset


def update(
    config: DynamicsConfig,
    net: DynamicsNetwork,
    targets: Targets,
    normalizer: Normalizer,
    data: Dataset,
    state: DynamicsState,
) -> tuple[DynamicsState, dict[str, jax.Array]]:
    """One gradient step of every member, each on its own bootstrap of the logs."""
    members = state.best_error.shape[0]

    def one(index: Array, member: Member) -> tuple[Member, dict[str, jax.Array]]:
        step = Step(state.key, state.step, index, members)
        return update_member(config, net, targets, normalizer, data, step, member)

    member, metrics = jax.vmap(one)(jnp.arange(members), members_of(state))
    state = dataclasses.replace(state, **member._asdict(), step=state.step + 1)
    return state, {name: jnp.mean(value) for name, value in metrics.items()}


def validate(
    net: DynamicsNetwork,
    targets: Targets,
    normalizer: Normalizer,
    holdout: Dataset,
    state: DynamicsState,
) -> tuple[DynamicsState, dict[str, jax.Array]]:
    """Measures the holdout error of every member and keeps the best parameters so far."""

    def one(member: Member) -> tuple[Member, dict[str, jax.Array]]:
        return validate_member(net, targets, normalizer, holdout, member)

    member, metrics = jax.vmap(one)(members_of(state))
    state = dataclasses.replace(state, **member._asdict())
    return state, {name: jnp.mean(value) for name, value in metrics.items()}
