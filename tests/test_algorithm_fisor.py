import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, SPEC, TASK, drawn, random_batch, same_leaves, tiny_config
from value_toys import Known

from proco_jax.algorithms import feasibility, fisor
from proco_jax.config.schema import (
    Config,
    EncoderConfig,
    FeasibilityConfig,
    FisorConfig,
    TrainConfig,
    replaced,
)
from proco_jax.models import diffusion
from proco_jax.models.networks import apply
from proco_jax.observation import Field, ObservationSpec
from proco_jax.training.loop import no_previous
from proco_jax.types import Array, NStep, TaskSpec, Transition

# Plain encoders compile fast; ring encoders train in `test_training.py`.
CONFIG = replaced(tiny_config(), {"encoder.rings": False})
ALGORITHM = fisor.make(CONFIG, TASK)
HYPER = ALGORITHM.hyper
NETS = fisor.make_networks(CONFIG, TASK)
SCHEDULE = diffusion.variance_preserving_schedule(5)
UPDATE = jax.jit(
    lambda key, state, batch, as_published=False: fisor.update(
        key, HYPER, NETS, state, batch, as_published
    ),
    static_argnums=3,
)


def known(q: Any, v: Any, qh: Any, vh: Any, policy: Any = None) -> fisor.Networks:
    """Networks whose values are functions of observation (and action)."""

    def heads(f: Any) -> Any:
        return Known(lambda o, a: jnp.stack([f(o, a)] * 2, axis=-1))

    critics: Any = feasibility.Networks(heads(qh), Known(lambda o: vh(o)[..., None]))  # pyright: ignore
    nets: Any = (heads(q), Known(lambda o: v(o)[..., None]), critics, Known(policy), SCHEDULE)
    return fisor.Networks(*nets)


def without_params() -> fisor.State:
    empty: Any = {"q": None, "v": None, "policy": None}
    critics: Any = feasibility.FeasibilityState(empty, None, None)  # pyright: ignore
    return fisor.State(empty, None, None, None, critics, jnp.int32(0))  # pyright: ignore


@pytest.fixture(scope="module")
def state() -> fisor.State:
    return jax.jit(lambda k: fisor.init(NETS, k))(jax.random.key(0))


@pytest.fixture(scope="module")
def batch() -> Transition:
    return random_batch(logged=6, imagined=4)


def test_schedule_by_hand():
    # The exponents of T = 5 steps are 0.02 + 0.198 (2 t - 1), which add up to 0.1 + 9.9 / 2.
    np.testing.assert_allclose(SCHEDULE.alpha[0], math.exp(-0.218), rtol=1e-5)
    np.testing.assert_allclose(SCHEDULE.alpha[4], math.exp(-0.02 - 0.198 * 9), rtol=1e-5)
    np.testing.assert_allclose(SCHEDULE.kept[4], math.exp(-5.05), rtol=1e-4)
    assert np.all(np.diff(SCHEDULE.kept) < 0)


def test_noised_actions_keep_their_variance_by_hand():
    action, noise = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    found = diffusion.noised(SCHEDULE, action, noise, jnp.array([0]))
    kept = math.exp(-0.218)
    np.testing.assert_allclose(found, [[math.sqrt(kept), math.sqrt(1 - kept)]], rtol=1e-5)


def test_denoising_loss_by_hand():
    """Of a network that predicts the noise in an action of 0 up to 0.5: A times 0.25."""

    def almost(obs: Any, noisy: Any, step: Any, rate: Any) -> Any:
        return noisy / jnp.sqrt(1.0 - jnp.asarray(SCHEDULE.kept)[step])[:, None] + 0.5

    net: Any = Known(almost)
    obs, action = jnp.zeros((7, 3)), jnp.zeros((7, ACTIONS))
    found = diffusion.denoising_loss(net, SCHEDULE, None, obs, action, jax.random.key(0))
    np.testing.assert_allclose(found, 0.25 * ACTIONS, rtol=1e-4)


def test_samples_are_the_action_whose_noise_is_known():
    target = jnp.array([0.3, -0.7])

    class Exact:
        """The noise that leads from `target` to the noisy action."""

        actions = ACTIONS

        def apply(self, params: Any, *inputs: Any, method: str) -> Any:
            if method == "encode":
                return inputs[0]
            _, noisy, step = inputs
            kept = jnp.asarray(SCHEDULE.kept)[step][:, None]
            return (noisy - jnp.sqrt(kept) * target) / jnp.sqrt(1.0 - kept)

    net: Any = Exact()
    found = diffusion.sample_diffusion(net, SCHEDULE, None, jnp.zeros(3), jax.random.key(1), 4)
    np.testing.assert_allclose(found, jnp.broadcast_to(target, (4, ACTIONS)), atol=1e-5)


def test_dropout_needs_a_random_stream(state, batch):
    params, policy = state.params["policy"], NETS.policy
    inputs = (batch.obs, batch.action, jnp.zeros(len(batch.obs), jnp.int32))

    @jax.jit
    def noise(rate: float, **rngs: Any) -> Any:
        return policy.apply(params, *inputs, rate, rngs=rngs)

    plain = noise(0.0)
    np.testing.assert_array_equal(noise(0.5), plain)
    assert np.any(noise(0.5, dropout=jax.random.key(2)) != plain)
    np.testing.assert_allclose(noise(0.0, dropout=jax.random.key(2)), plain, atol=1e-6)


def weighted(obs: Any, imagined: Any) -> Array:
    """Weights of rows whose observation holds Q_r, V_r, Q_h, V_h."""
    obs = jnp.asarray(obs, jnp.float32)
    nets = known(
        lambda o, a: o[..., 0], lambda o: o[..., 1], lambda o, a: o[..., 2], lambda o: o[..., 3]
    )
    rows = random_batch(len(obs), 0)._replace(obs=obs, imagined=jnp.array(imagined))
    return fisor.policy_weights(HYPER, nets, without_params(), rows)


ROWS = [
    [1.0, 0.0, -1.0, -1.0],  # feasible, good action
    [-1.0, 0.0, -1.0, -1.0],  # feasible, bad action
    [9.0, 9.0, 0.5, -1.0],  # feasible state, infeasible action
    [0.0, 0.0, 1.0, 1.2],  # infeasible state, better action
    [0.0, 0.0, 1.4, 1.2],  # infeasible state, worse action
    [5.0, 0.0, -1.0, -1.0],  # imagined and feasible: its reward is unknown
    [5.0, 0.0, 1.0, 1.2],  # imagined and infeasible
]
IMAGINED = [False] * 5 + [True] * 2


def test_weights_by_hand():
    found = np.asarray(weighted(ROWS, IMAGINED))
    # Advantages 1, -1, 0, 0, 0 of logged rows: their usual size is the 0.683 quantile of
    # 0, 0, 0, 1, 1, which is at place 2.732 and thus 0.732.
    good, less = math.exp(3 / 0.732), HYPER.imagined_weight
    expected = [good, 1 / good, 0, math.exp(1.0), math.exp(-1.0), 0, less * math.exp(1.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_published_weights_in_infeasible_states_by_hand(state, batch):
    """They have no lower bound in the published code either."""

    def constant(tree: Any, value: float) -> Any:
        """Parameters whose output is a constant: the biases of the outputs are of size 1."""
        return jax.tree.map(lambda x: jnp.full(x.shape, value if x.shape == (1,) else 0.0), tree)

    own = state.feasibility
    critics = dataclasses.replace(
        own,
        params={"q": own.params["q"], "v": constant(own.params["v"], 2.0)},
        target_q=constant(own.target_q, 2.2),
    )
    metrics = UPDATE(
        jax.random.key(9), dataclasses.replace(state, feasibility=critics), batch, True
    )[1]
    # exp(5 (2 - 2.2)) in six logged rows, and times the weight of imagined ones in four.
    expected = math.exp(-1.0) * (6.0 + 4.0 * float(HYPER.imagined_weight)) / 10.0
    assert float(metrics["fisor/weight"]) == pytest.approx(expected, rel=1e-4)


def test_reward_losses_by_hand():
    # V_r is 2 in states and 3 in next states, target Q_r is 1, Q_r itself 1 too.
    nets = known(
        lambda o, a: jnp.ones(o.shape[0]),
        lambda o: jnp.where(o[..., 0] > 0, 3.0, 2.0),
        lambda o, a: o[..., 0],
        lambda o: o[..., 0],
    )
    rows = random_batch(3, 1)
    rows = rows._replace(
        obs=jnp.zeros_like(rows.obs),
        next_obs=jnp.ones_like(rows.obs),
        reward=jnp.array([0.5, 0.5, 0.5, 99.0]),
        discount=jnp.array([1.0, 1.0, 0.0, 1.0]),
    )
    hyper = HYPER._replace(discount=0.5)
    _, metrics = fisor.reward_loss(hyper, nets, {"q": None, "v": None}, without_params(), rows)
    # V_r is too high by 1: weight 1 - 0.9. Both Q_r are too low by 0.5 + 0.5 * 3 - 1 = 1 where the
    # episode goes on, and too high by 0.5 where it ends; the imagined row does not count.
    assert float(metrics["fisor/v_loss"]) == pytest.approx(0.1, rel=1e-4)
    assert float(metrics["fisor/q_loss"]) == pytest.approx(2 * (1 + 1 + 0.25) / 3, rel=1e-4)


def test_policy_loss_by_hand():
    """Weights 1 of two feasible rows without advantage; the predicted noise is off by 2."""

    def off(obs: Any, noisy: Any, step: Any, rate: Any) -> Any:
        return noisy / jnp.sqrt(1.0 - jnp.asarray(SCHEDULE.kept)[step])[:, None] + 2.0

    zeros = lambda o, *a: jnp.zeros(o.shape[0])  # noqa: E731
    minus = lambda o, *a: -jnp.ones(o.shape[0])  # noqa: E731
    rows = random_batch(2, 2)._replace(action=jnp.zeros((4, ACTIONS)))
    nets = known(zeros, zeros, minus, minus, off)
    inputs = (HYPER, nets, {"policy": None}, without_params(), rows)
    found, _ = fisor.policy_loss(jax.random.key(3), *inputs)
    # Half of the rows are imagined, in feasible states, and count as 0.
    assert float(found) == pytest.approx(0.5 * ACTIONS * 4.0, rel=1e-4)


def test_each_loss_moves_only_its_own_network(state, batch):
    @jax.jit
    def by_loss(params, target_q, critics):
        def gradient(name):
            def of(p, t, c):
                own = dataclasses.replace(
                    state, target_q=t, feasibility=dataclasses.replace(state.feasibility, params=c)
                )
                rewards = fisor.reward_loss(HYPER, NETS, p, own, batch)[1]
                key = jax.random.key(4)
                policy = fisor.policy_loss(key, HYPER, NETS, p, own, batch)[1]
                return (rewards | policy)[f"fisor/{name}_loss"]

            return jax.grad(of, argnums=(0, 1, 2))(params, target_q, critics)

        return {name: gradient(name) for name in ("q", "v", "policy")}

    def moved(tree: Any) -> bool:
        return any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(tree))

    # The output layer starts near 0; random parameters let every layer matter.
    found = by_loss(drawn(state.params), state.target_q, state.feasibility.params)
    for name, (grads, *others) in found.items():
        for part, tree in grads.items():
            assert moved(tree) == (part == name), f"{name} loss, {part}"
        assert not moved(others), name


@pytest.mark.slow
def test_imagined_rewards_reach_no_loss(state, batch):
    changed = batch._replace(reward=jnp.where(batch.imagined, 99.0, batch.reward))
    before, after = (UPDATE(jax.random.key(5), state, rows) for rows in (batch, changed))
    same_leaves(before[0].params, after[0].params)


@pytest.mark.slow
def test_without_costs_all_is_feasible_and_weights_follow_the_advantage(state, batch):
    steps = batch.n_step
    safe = batch._replace(
        cost=jnp.zeros_like(batch.cost),
        n_step=steps._replace(violation=jnp.zeros_like(steps.violation)),
        imagined=jnp.zeros_like(batch.imagined),
    )

    @jax.jit
    def learn(s):
        return jax.lax.scan(
            lambda s, k: fisor.update(k, HYPER, NETS, s, safe),
            s,
            jax.random.split(jax.random.key(6), 30),
        )

    learned, metrics = learn(state)
    np.testing.assert_array_equal(metrics["feasibility/infeasible_share"], 0.0)
    found = fisor.policy_weights(HYPER, NETS, learned, safe)
    q = jnp.min(apply(NETS.q, learned.target_q, safe.obs, safe.action), axis=-1)
    advantage = q - apply(NETS.v, learned.params["v"], safe.obs)[..., 0]
    advantage /= np.quantile(np.abs(advantage), 0.683)
    expected = np.minimum(np.exp(3.0 * advantage), 100.0)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.slow
def test_published_time_limits_are_terminations(state, batch):
    steps = batch.n_step
    last = jnp.arange(10) == 2
    # The third logged row and the last imagined row have no second step.
    valid = steps.valid.at[2, 1:].set(False).at[9, 1:].set(False)
    rows = batch._replace(n_step=steps._replace(valid=valid), cost=jnp.zeros(10))
    ended = rows._replace(discount=jnp.where(last, 0.0, rows.discount))
    key = jax.random.key(7)
    # Violations would also be weighted differently.
    corrected, published, by_hand = (
        UPDATE(jax.random.clone(key), state, *inputs)[0].params["q"]
        for inputs in ((rows,), (rows, True), (ended,))
    )
    same_leaves(published, by_hand)
    with pytest.raises(AssertionError):
        same_leaves(published, corrected)


def test_published_backup_within_a_violation_and_windows_that_it_needs():
    published = replaced(CONFIG, {"fisor.as_published": True})
    assert fisor.make(published, TASK).hyper.feasibility.violation_discount == 0.0
    assert HYPER.feasibility.violation_discount == pytest.approx(0.9)
    with pytest.raises(ValueError, match=r"fisor\.as_published: found --config\.train\.n_step=1"):
        fisor.make(replaced(published, {"train.n_step": 1}), TASK)


def test_one_update_moves_every_part_and_repeats_exactly(state, batch):
    new, metrics = UPDATE(jax.random.key(8), state, batch)
    same_leaves(UPDATE(jax.random.key(8), state, batch)[0], new)
    for part in ("q", "v", "policy"):
        before, after = jax.tree.leaves(state.params[part]), jax.tree.leaves(new.params[part])
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)), part
    for old, now, moved in zip(
        *(jax.tree.leaves(x) for x in (state.acting_policy, new.params["policy"])),
        jax.tree.leaves(new.acting_policy),
        strict=True,
    ):
        rate = CONFIG.fisor.policy_tau
        np.testing.assert_allclose(moved, (1 - rate) * old + rate * now, atol=1e-6)
    assert all(np.isfinite(float(v)) for v in metrics.values())
    assert {"fisor/q_loss", "feasibility/q_loss"} <= set(metrics)


@pytest.mark.slow
def test_of_the_candidates_the_one_with_the_least_qh_acts(state):
    assert ALGORITHM.sample_actions is not None and ALGORITHM.critics is not None
    obs = jnp.full(SPEC.size, 0.3)
    given = (HYPER, state, (), obs, no_previous(ACTIONS))
    key = jax.random.key(9)
    samples, carry = ALGORITHM.sample_actions(key, *given, CONFIG.fisor.candidates)
    assert carry == () and samples.shape == (2, ACTIONS)
    assert np.all(samples[0] != samples[1]) and np.abs(samples).max() <= 1.0
    action, _ = ALGORITHM.act(jax.random.clone(key), *given)
    qh = [float(fisor.target_qh(NETS, state.feasibility, obs, a)) for a in samples]
    np.testing.assert_array_equal(action, samples[int(np.argmin(qh))])
    assert ALGORITHM.critics(state) is state.feasibility


def test_with_one_candidate_a_plain_sample_acts(state):
    plain = fisor.make(replaced(CONFIG, {"fisor.candidates": 1}), TASK)
    given = (HYPER, state, (), jnp.zeros(SPEC.size), no_previous(ACTIONS))
    key = jax.random.key(10)
    action, _ = plain.act(key, *given)
    assert plain.sample_actions is not None
    samples, _ = plain.sample_actions(jax.random.clone(key), *given, 1)
    np.testing.assert_array_equal(action, samples[0])


# A choice with a known answer: the state is a number s in [-1, 1], the action is rewarded by
# itself, ends the episode, and violates if it exceeds s. The best safe action is s, the best
# unconstrained one 1. Where s < -1 + margin almost every action violates.
CHOICE = TaskSpec(
    ObservationSpec((Field("limit", 1, "flat", "", "Largest safe action."),)), 1, 1, 0.5
)
CHOICE_CONFIG = Config(
    encoder=EncoderConfig(features=64, rings=False),
    feasibility=FeasibilityConfig(
        hidden=(64,), learning_rate=2e-3, unsafe=1.0, discount=0.9, expectile=0.98
    ),
    fisor=FisorConfig(
        hidden=(32,), width=32, blocks=2, learning_rate=2e-3, policy_tau=0.01, dropout=0.0
    ),
    train=TrainConfig(steps=1500),
)


def choices(key: Array, constrained: bool) -> Transition:
    """128 logged rows of one step with uniform actions; costs only if constrained."""
    state_key, action_key = jax.random.split(key)
    obs = jax.random.uniform(state_key, (128, 1), minval=-0.5)
    action = jax.random.uniform(action_key, (128, 1), minval=-1.0)
    violation = (action > obs) & constrained
    cost, zeros = violation[:, 0].astype(jnp.float32), jnp.zeros(128)
    ones = jnp.ones(128)
    steps = NStep(action, cost[:, None], violation, jnp.ones((128, 1), bool), obs, zeros)
    return Transition(obs, action, action[:, 0], cost, obs, zeros, obs, steps, ones, zeros > 0)


@pytest.mark.slow
@pytest.mark.parametrize("constrained", [False, True])
def test_the_best_action_of_a_known_choice_is_learned(constrained):
    algorithm = fisor.make(CHOICE_CONFIG, CHOICE)
    hyper = algorithm.hyper

    @jax.jit
    def learn(key):
        def step(s, k):
            batch_key, update_key = jax.random.split(k)
            return algorithm.update(update_key, hyper, s, choices(batch_key, constrained))

        init_key, loop_key = jax.random.split(key)
        keys = jax.random.split(loop_key, CHOICE_CONFIG.train.steps)
        return jax.lax.scan(step, algorithm.init(init_key, hyper), keys)[0]

    state = learn(jax.random.key(11))
    assert algorithm.sample_actions is not None
    samples = jax.jit(algorithm.sample_actions, static_argnums=6)
    for limit in (-0.2, 0.3, 0.8):
        given = (hyper, state, (), jnp.array([limit]), no_previous(1))
        found = np.asarray(samples(jax.random.key(12), *given, 500)[0])[:, 0]
        best = limit if constrained else 1.0
        # The weights exp(3 A) fall by e for each third of the advantages' usual size.
        assert best - 0.45 < found.mean() < best + 0.05, (limit, found.mean())
        if constrained:
            assert (found > limit + 0.1).mean() < 0.1
            action = algorithm.act(jax.random.key(13), *given)[0]
            assert float(action[0]) < limit
