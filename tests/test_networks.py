import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, BINS, SPEC, drawn_params

from proco_jax.common.sharding import OPTIMIZATION_LEVEL
from proco_jax.models import networks
from proco_jax.observation import Field, ObservationSpec

RINGS_ONLY = ObservationSpec(
    (
        Field("hazards", 16, "ring", "closeness", "Hazards.", reach=3.0),
        Field("speed", 1, "flat", "m/s", "Speed."),
        Field("goal", 16, "ring", "closeness", "Goal.", reach=3.0),
    )
)
FLAT = ObservationSpec((Field("x", 3, "flat", "m", "Numbers."),))


@pytest.fixture(scope="module")
def obs():
    return jax.random.uniform(jax.random.key(0), (5, SPEC.size))


@pytest.fixture(scope="module")
def action():
    return jax.random.uniform(jax.random.key(1), (5, ACTIONS), minval=-1.0)


def apply(net, params, *inputs):
    """The compiled output of a network."""
    return jax.jit(net.apply)(params, *inputs)


def encoder(spec: ObservationSpec = SPEC, rings: bool = True) -> networks.Encoder:
    return networks.Encoder(spec, rings, (8, 8), 16, 1)


def dynamics_network() -> networks.DynamicsNetwork:
    return networks.DynamicsNetwork(SPEC, (8, 8), (16,), 1, 1)


def test_parts_of_an_observation_by_hand():
    row = jnp.arange(SPEC.size, dtype=jnp.float32)
    first = 3 + jnp.arange(BINS)
    np.testing.assert_array_equal(
        networks.take_rings(SPEC, row, BINS), jnp.stack([first, first + BINS + 1], -1)
    )
    np.testing.assert_array_equal(
        networks.take_sensors(SPEC, row), [0, 1, 2, 3 + BINS, 4 + 2 * BINS]
    )
    np.testing.assert_array_equal(networks.take_planar(SPEC, row), [[0, 1]])


def test_missing_kinds_of_fields_give_empty_arrays():
    row = jnp.zeros((2, 3))
    assert networks.take_planar(FLAT, row).shape == (2, 0, 2)
    only_ring = ObservationSpec((SPEC.field("goal"),))
    assert networks.take_sensors(only_ring, jnp.zeros((2, BINS))).shape == (2, 0)


def test_a_forward_vector_in_the_frames_of_four_bins_by_hand():
    seen = networks.into_bin_frames(jnp.array([[1.0, 0.0]]), 4)
    # Along the bin's middle, 45 degrees left of ahead for the first, and to its left.
    half = np.sqrt(0.5)
    expected = np.array([[1, -1], [-1, -1], [-1, 1], [1, 1]]) * half
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_actions_saturate_by_hand():
    seen = networks.with_saturation(jnp.array([0.0, 1.0, -0.05]))
    np.testing.assert_allclose(seen, [0, 1, -0.05, 0, 1, -np.tanh(1.5)], atol=1e-6)


def test_neighbors_by_hand():
    seen = networks.with_neighbors(jnp.arange(4.0)[:, None], 1)
    np.testing.assert_array_equal(seen, [[3, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 0]])


def test_near_range_by_hand():
    seen = networks.with_near_range(jnp.array([[1.0], [0.5], [0.0]]))
    np.testing.assert_allclose(seen, [[1, 1], [0.5, 0.5**8], [0, 0]])


def test_rotating_vectors_by_one_bin_shifts_their_bin_frames_by_one():
    vectors = jax.random.normal(jax.random.key(2), (7, 3, 2))
    angle = 2 * np.pi / 16
    turn = jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = networks.into_bin_frames(vectors @ turn.T, 16)
    moved = jnp.roll(networks.into_bin_frames(vectors, 16), 1, axis=-2)
    np.testing.assert_allclose(turned, moved, atol=1e-5)


@pytest.mark.parametrize("neighbors", [0, 1, 2])
def test_rotating_rings_by_one_bin_shifts_neighborhoods_by_one(neighbors):
    bins = jax.random.normal(jax.random.key(3), (7, 16, 2))
    turned = networks.with_neighbors(jnp.roll(bins, 1, axis=-2), neighbors)
    moved = jnp.roll(networks.with_neighbors(bins, neighbors), 1, axis=-2)
    np.testing.assert_array_equal(turned, moved)


def test_bins_share_one_network_and_differ_only_by_heading():
    net = networks.BinNetwork(RINGS_ONLY, 16, (8, 8), 1)
    obs = jax.random.uniform(jax.random.key(4), (3, RINGS_ONLY.size))
    turned = obs.at[:, :16].set(jnp.roll(obs[:, :16], 1, axis=-1))
    turned = turned.at[:, 17:].set(jnp.roll(obs[:, 17:], 1, axis=-1))
    none = obs[:, :0]
    of = jax.jit(net.apply)
    params = drawn_params(net, 5, obs, none)
    assert not np.allclose(of(params, turned, none), jnp.roll(of(params, obs, none), 1, axis=-2))
    kernel = params["params"]["Dense_0"]["kernel"]
    # The heading as each bin sees it comes last, two numbers.
    params["params"]["Dense_0"]["kernel"] = kernel.at[-2:].set(0.0)
    np.testing.assert_allclose(
        of(params, turned, none),
        jnp.roll(of(params, obs, none), 1, axis=-2),
        atol=1e-5,
    )


@pytest.mark.parametrize("rings", [True, False])
def test_encoder_batched_equals_per_row(obs, action, rings):
    net = encoder(rings=rings)
    params = drawn_params(net, 6, obs[0], action[0])
    batched = apply(net, params, obs, action)
    assert isinstance(batched, jax.Array) and batched.shape == (5, 16)
    one = jax.jit(net.apply)
    rows = jnp.stack([one(params, o, a) for o, a in zip(obs, action, strict=True)])
    np.testing.assert_allclose(batched, rows, atol=1e-5)


def test_encoder_without_rings_is_one_plain_layer():
    net = encoder(FLAT)
    x = jnp.array([[1.0, -2.0, 3.0]])
    params = drawn_params(net, 7, x, x[:, :0])
    assert list(params["params"]) == ["Dense_0"]
    layer = params["params"]["Dense_0"]
    expected = jnp.maximum(x @ layer["kernel"] + layer["bias"], 0)
    np.testing.assert_allclose(apply(net, params, x, x[:, :0]), expected, rtol=1e-5)


def test_critic_gives_a_value_for_each_head_and_the_heads_differ(obs, action):
    net = networks.Critic(encoder(), (16,), 2)
    params = drawn_params(net, 8, obs, action)
    values = np.asarray(apply(net, params, obs, action))
    assert values.shape == (5, 2)
    assert not np.allclose(values[:, 0], values[:, 1])
    single = networks.Critic(encoder(), (16,), 1)
    assert np.shape(apply(single, drawn_params(single, 9, obs), obs)) == (5, 1)


def test_policy_mean_and_deviation_stay_in_range_for_extreme_states(obs):
    net = networks.GaussianPolicy(encoder(), (16,), ACTIONS)
    params = drawn_params(net, 10, obs)
    for factor in (1.0, 1e4, -1e4):
        mean, log_std = apply(net, params, factor * obs)
        assert mean.shape == log_std.shape == (5, ACTIONS)
        assert np.all(np.abs(mean) <= 1.0)
        assert np.all(log_std >= -4.0) and np.all(log_std <= 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("level", [OPTIMIZATION_LEVEL, 3])
def test_dynamics_network_mapped_twice_equals_plain(obs, action, level):
    net = dynamics_network()
    params = drawn_params(net, 11, obs[0], action[0])
    # XLA on CPU once returned wrong numbers here, for ensembles inside seeds.
    twice = jax.tree.map(lambda x: jnp.stack([jnp.stack([x, x + 0.1])] * 2), params)
    as_shipped: dict[str, Any] = {"xla_backend_optimization_level": level}
    if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:
        as_shipped["xla_cpu_use_fusion_emitters"] = True
    one = jax.jit(net.apply)
    mapped = jax.jit(
        jax.vmap(jax.vmap(net.apply, (0, None, None)), (0, None, None)), compiler_options=as_shipped
    )
    found = mapped(twice, obs, action)
    plain = [one(jax.tree.map(lambda x, k=k: x + 0.1 * k, params), obs, action) for k in (0, 1)]
    for seed in (0, 1):
        for member in (0, 1):
            for part in (0, 1, 2):
                np.testing.assert_allclose(
                    found[part][seed, member], plain[member][part], atol=1e-4
                )


def test_dynamics_network_batched_equals_per_row(obs, action):
    net = dynamics_network()
    params = drawn_params(net, 12, obs[0], action[0])
    mean, log_variance, by_motion, motion = apply(net, params, obs, action)
    assert mean.shape == log_variance.shape == by_motion.shape == (5, SPEC.size + 1)
    one_of = jax.jit(net.apply)
    for i in range(5):
        one = one_of(params, obs[i], action[i])
        np.testing.assert_allclose(mean[i], one[0], atol=1e-5)
        np.testing.assert_allclose(log_variance[i], one[1], atol=1e-5)
        np.testing.assert_allclose(by_motion[i], one[2], atol=1e-5)
        np.testing.assert_allclose(motion[i], one[3], atol=1e-5)


def test_a_fresh_dynamics_network_moves_nothing_and_a_motion_moves_rings_alone(obs, action):
    net = dynamics_network()
    fresh = jax.jit(net.init)(jax.random.key(0), obs[0], action[0])
    np.testing.assert_allclose(apply(net, fresh, obs, action)[2], 0.0, atol=1e-6)
    by_motion = apply(net, drawn_params(net, 17, obs[0], action[0]), obs, action)[2]
    ring = np.concatenate([*(np.full(f.size, f.kind == "ring") for f in SPEC.fields), [False]])
    np.testing.assert_array_equal(by_motion[:, ~ring], 0.0)
    assert np.all(np.any(np.asarray(by_motion[:, ring]) != 0, axis=1))


@pytest.mark.slow
def test_mean_and_variance_heads_share_no_gradient(obs, action):
    net = dynamics_network()
    params = drawn_params(net, 13, obs[0], action[0])

    def by_head(index: int):
        grads = jax.jit(jax.grad(lambda p: networks.apply(net, p, obs, action)[index].sum()))(
            params
        )
        return {
            jax.tree_util.keystr(path)
            for path, g in jax.tree_util.tree_leaves_with_path(grads)
            if np.any(np.asarray(g) != 0)
        }

    assert by_head(0) and by_head(1)
    assert not by_head(0) & by_head(1)


def test_outputs_are_in_the_order_of_the_fields():
    # Rings so large that some bins are out of sight of a changed one.
    spec = ObservationSpec(
        tuple(dataclasses.replace(f, size=16) if f.kind == "ring" else f for f in SPEC.fields)
    )
    action = jnp.zeros(ACTIONS)
    net = networks.DynamicsNetwork(spec, (8, 8), (16,), 1, 1)
    obs = jnp.full(spec.size, 0.5)
    params = drawn_params(net, 14, obs, action)
    mean_of = jax.jit(lambda o: net.apply(params, o, action)[0])
    # Only the bin network sees a ring's own neighborhood, so a change of one
    # bin changes the bins around it, in its own field, more than those far away.
    for f in spec.rings:
        start = spec.slices[f.name].start
        change = np.abs(mean_of(obs.at[start].set(1.0)) - mean_of(obs))
        ring = change[spec.slices[f.name]]
        np.testing.assert_allclose(ring[6:11], 0.0, atol=1e-6)
        assert ring[[0, 1, 15]].max() > 1e-4


def test_a_spec_may_have_rings_of_different_sizes():
    small = dataclasses.replace(SPEC.field("goal"), name="small", size=4)
    spec = ObservationSpec((*SPEC.fields, small))
    assert networks.ring_sizes(spec) == (BINS, 4)
    obs, action = jnp.ones(spec.size), jnp.ones(ACTIONS)
    net = networks.DynamicsNetwork(spec, (8, 8), (16,), 1, 1)
    mean, *_ = apply(net, drawn_params(net, 15, obs, action), obs, action)
    assert mean.shape == (spec.size + 1,)
    net = encoder(spec)
    assert np.shape(apply(net, drawn_params(net, 16, obs, action), obs, action)) == (16,)
