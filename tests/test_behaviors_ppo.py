"""The learner of behavior policies: numbers by hand, gradients, and a world with a speed limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from behavior_toys import STEPS, TASK, SpeedEnv

from proco_jax.algorithms.imagination import surrogate_loss
from proco_jax.behaviors import ppo
from proco_jax.behaviors.frontier import frontier
from proco_jax.behaviors.ppo import PPOSettings, Rollout, Rows
from proco_jax.behaviors.simulated import Ended, SimulatedWorlds, SimulatorPhase, summary
from proco_jax.behaviors.training import finished_policies, train
from proco_jax.envs.behavior_inputs import PRICE_INPUTS, VELOCITY_PRICES, policy_inputs, price_input

SETTINGS = PPOSettings(hidden=(16, 16), critic_hidden=(16, 16), minibatches=2, epochs=4)
F, A = 3, 2


def column(*values):
    return jnp.array(values, jnp.float32)[:, None]


def flags(*values):
    return jnp.array(values, bool)[:, None]


def rollout(steps=4, worlds=6, seed=0):
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    price = np.abs(normal(steps, worlds))
    return Rollout(
        normal(steps, worlds, F),
        normal(steps, worlds, F),
        price,
        price_input(VELOCITY_PRICES, price).astype(np.float32),
        normal(steps, worlds, A),
        normal(steps, worlds),
        (random.random((steps, worlds)) < 0.3).astype(np.float32),
        np.zeros((steps, worlds), bool),
        np.zeros((steps, worlds), bool),
    )


def test_generalized_advantages_by_hand():
    # Errors: 1 + 0.5 * 4 - 2 = 1, 0 + 0.5 * 6 - 4 = -1, 2 + 0.5 * 8 - 6 = 0.
    found = ppo.generalized_advantages(
        column(1, 0, 2), column(2, 4, 6), column(4, 6, 8), flags(0, 0, 0), flags(0, 0, 1), 0.5, 0.5
    )
    # From the end: 0, -1 + 0.25 * 0, 1 + 0.25 * -1.
    np.testing.assert_allclose(found[:, 0], [0.75, -1.0, 0.0])


def test_nothing_follows_a_termination_but_a_time_limit_is_bootstrapped():
    rows = (column(1, 5), column(0, 0), column(10, 0))
    ended = flags(1, 1)
    terminated = ppo.generalized_advantages(*rows, flags(1, 1), ended, 0.5, 0.9)
    truncated = ppo.generalized_advantages(*rows, flags(0, 1), ended, 0.5, 0.9)
    # The advantage 5 of the next episode reaches neither.
    np.testing.assert_allclose(terminated[:, 0], [1.0, 5.0])
    np.testing.assert_allclose(truncated[:, 0], [6.0, 5.0])


def test_without_gae_the_advantage_is_the_error_and_with_all_of_it_the_return():
    signal, value, after = column(1, 2, 3), column(4, 5, 6), column(5, 6, 7)
    ended = flags(0, 0, 1)
    one = ppo.generalized_advantages(signal, value, after, flags(0, 0, 0), ended, 0.9, 0.0)
    np.testing.assert_allclose(one, signal + 0.9 * after - value, rtol=1e-6)
    all_ = ppo.generalized_advantages(signal, value, after, flags(0, 0, 0), ended, 0.9, 1.0)
    # 1 + 0.9 * 2 + 0.81 * 3 + 0.729 * 7 - 4
    np.testing.assert_allclose(all_[0, 0], 1 + 1.8 + 2.43 + 5.103 - 4, rtol=1e-6)


def test_priced_advantages_by_hand():
    reward, cost = jnp.array([[1.0, -1.0]]), jnp.array([[2.0, -2.0]])
    free = ppo.priced_advantages(reward, cost, jnp.zeros((1, 2)))
    np.testing.assert_allclose(free, [[1.0, -1.0]], rtol=1e-5)
    # (1 - 3 * 2) / sqrt(1 + 9 * 4)
    dear = ppo.priced_advantages(reward, cost, jnp.full((1, 2), 3.0))
    np.testing.assert_allclose(dear, [[-5 / 37**0.5, 5 / 37**0.5]], rtol=1e-5)


def test_the_clipped_loss_by_hand():
    log_ratio, advantage = jnp.log(jnp.array([1.5, 1.5, 0.5, 0.5])), jnp.array([1.0, -1, 1, -1])
    # A ratio that already moved far enough earns no more: 1.2, -1.5, 0.5, -0.8.
    found = surrogate_loss(log_ratio, jnp.zeros(4), advantage, jnp.float32(0.2))
    assert found == pytest.approx(0.6 / 4)


def test_the_step_size_follows_the_divergence():
    at = SETTINGS.divergence
    step = jnp.float32(1e-3)
    assert ppo.next_step_size(SETTINGS, step, 3 * at) == pytest.approx(1e-3 / 1.5)
    assert ppo.next_step_size(SETTINGS, step, 0.1 * at) == pytest.approx(1.5e-3)
    assert ppo.next_step_size(SETTINGS, step, at) == pytest.approx(1e-3)
    assert ppo.next_step_size(SETTINGS, jnp.float32(3e-3), 0.1 * at) == pytest.approx(3e-3)


def test_the_log_probability_is_that_of_a_normal_distribution():
    mean, log_std = jnp.array([[0.0, 1.0]]), jnp.log(jnp.array([1.0, 2.0]))
    found = ppo.log_probability(mean, log_std, jnp.array([[1.0, 5.0]]))
    expected = -0.5 - 0.5 * np.log(2 * np.pi) - 2.0 - np.log(2.0) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_the_normalizer_equals_that_of_all_inputs_at_once():
    random = np.random.default_rng(0)
    parts = [random.normal(3.0, 2.0, (n, 2)).astype(np.float32) for n in (5, 1, 40)]
    parts = [np.concatenate([p, np.full((len(p), 1), 7.0, np.float32)], axis=1) for p in parts]
    normalizer = ppo.Normalizer(jnp.zeros(()), jnp.zeros(3), jnp.zeros(3))
    for part in parts:
        normalizer = ppo.updated(normalizer, part)
    rows = np.concatenate(parts)
    np.testing.assert_allclose(normalizer.mean, rows.mean(0), rtol=1e-5)
    found = np.asarray(normalizer(rows))
    np.testing.assert_allclose(found.std(0), [1.0, 1.0, 0.0], atol=1e-4)


@pytest.mark.parametrize(
    ("term", "moved"),
    [
        ("policy", "policy"),
        ("reward_target", "reward_critic"),
        ("cost_target", "cost_critic"),
    ],
)
def test_each_loss_term_moves_its_network_and_no_other(term, moved):
    learner = ppo.init_learner(jax.random.key(0), SETTINGS, F, A)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(8, F + PRICE_INPUTS)), jnp.float32)
    mean, log_std = ppo.policy_outputs(learner.params["policy"], inputs)
    action = mean + 0.3
    rows = Rows(
        inputs,
        action,
        ppo.log_probability(mean, log_std, action),
        jnp.where(term == "policy", jnp.arange(8.0), 0.0),
        ppo.critic_outputs(learner.params["reward_critic"], inputs) + (term == "reward_target"),
        ppo.critic_outputs(learner.params["cost_critic"], inputs) + (term == "cost_target"),
    )
    settings = PPOSettings(hidden=(16, 16), critic_hidden=(16, 16), entropy=0.0)
    grads, _ = jax.grad(ppo.total_loss, has_aux=True)(learner.params, settings, rows)
    sizes = {
        name: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(own))
        for name, own in grads.items()
    }
    assert {name for name, size in sizes.items() if size > 1e-7} == {moved}


def test_the_entropy_widens_the_actions_and_moves_nothing_else():
    learner = ppo.init_learner(jax.random.key(0), SETTINGS, F, A)
    inputs = jnp.eye(4, F + PRICE_INPUTS, F)
    mean, log_std = ppo.policy_outputs(learner.params["policy"], inputs)
    zeros = jnp.zeros(4)
    rows = Rows(inputs, mean, ppo.log_probability(mean, log_std, mean), zeros, zeros, zeros)

    def entropy_part(params):
        whole = ppo.total_loss(params, SETTINGS, rows)[0]
        free = PPOSettings(hidden=(16, 16), critic_hidden=(16, 16), entropy=0.0)
        return whole - ppo.total_loss(params, free, rows)[0]

    grads = jax.grad(entropy_part)(learner.params)
    # Each of the first four marks has one row of the four.
    marks = np.repeat([[-SETTINGS.entropy / 4], [0.0]], [4, PRICE_INPUTS - 4], axis=0)
    np.testing.assert_allclose(
        grads["policy"]["log_std"], np.repeat(marks, A, axis=1), rtol=1e-4, atol=1e-9
    )
    del grads["policy"]["log_std"]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_rewards_and_costs_reach_their_own_critics_alone():
    learner = ppo.init_learner(jax.random.key(0), SETTINGS, F, A)
    one = rollout()
    rows, _ = ppo.make_rows(SETTINGS, learner, one)
    dearer, _ = ppo.make_rows(SETTINGS, learner, one._replace(cost=one.cost + 1.0))
    np.testing.assert_array_equal(rows.reward_target, dearer.reward_target)
    assert float(jnp.min(dearer.cost_target - rows.cost_target)) > 0


def test_an_update_raises_the_probability_of_actions_that_were_better_than_expected():
    learner = ppo.init_learner(jax.random.key(0), SETTINGS, F, A)
    one = rollout(steps=16, worlds=32)
    one = one._replace(
        reward=one.action[..., 0], cost=np.zeros_like(one.cost), ended=np.ones_like(one.ended)
    )
    one = jax.tree.map(jnp.asarray, one)
    update = jax.jit(lambda key, learner: ppo.update(key, SETTINGS, learner, one))
    after = learner
    for k in range(3):
        after, metrics = update(jax.random.key(k), after)
    inputs = ppo.with_price(after.normalizer, one.inputs, one.price_input)
    mean, _ = ppo.policy_outputs(after.params["policy"], inputs)
    assert float(jnp.mean(mean[..., 0])) > 0.05 > abs(float(jnp.mean(mean[..., 1])))
    assert int(after.updates) == 3 and np.isfinite(list(map(float, metrics.values()))).all()


def test_rates_of_a_summary_by_hand():
    episodes = [Ended(0.0, 4.0, 2.0, 10), Ended(1.0, 1.0, 0.0, 5), Ended(2.0, 3.0, 1.0, 20)]
    found = summary(episodes, 20)
    assert found["reckless/return"] == 8.0 and found["reckless/cost"] == 4.0
    assert found["cautious/return"] == 3.0 and found["cautious/cost"] == 1.0


def train_speed(folder, rounds, log=print, seed=0):
    env = SpeedEnv(16)
    worlds = SimulatedWorlds(env, VELOCITY_PRICES, seed)
    phase = SimulatorPhase(worlds, SETTINGS, rounds, STEPS)
    key = jax.random.key(seed)
    identity = {"rounds": rounds, "seed": seed}
    return train(folder, key, SETTINGS, (1, 1), [phase], log, identity)


@pytest.mark.usefixtures("unchecked_keys")
def test_one_training_gives_fast_and_law_abiding_policies(tmp_path):
    state = train_speed(tmp_path / "training", 40)
    policies = finished_policies(state, {"task": TASK.name, "prices": list(VELOCITY_PRICES)})
    found = frontier(SpeedEnv(8), policies, 8, print)
    # A policy that keeps to the limit earns at most 40; the most that can be earned is about 72.
    free, fair, dear = found[0], found[3], found[-1]
    assert free["return"] > 45 and free["cost"] > 0.8 * STEPS
    assert fair["return"] > 15 and fair["cost"] < 0.1 * STEPS
    assert dear["cost"] < 0.1 * STEPS
    # The untrained policy earns nothing, early snapshots less than late ones.
    early = frontier(SpeedEnv(8), policies, 8, print, snapshot=0)
    assert early[0]["return"] < free["return"]


@pytest.mark.usefixtures("unchecked_keys")
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    class Killed(BaseException):
        pass

    lines = []

    def kill(line):
        lines.append(line)
        if "round 3 of 5" in line:
            raise Killed

    whole = train_speed(tmp_path / "whole", 5)
    with pytest.raises(Killed):
        train_speed(tmp_path / "cut", 5, kill)
    lines.clear()
    again = train_speed(tmp_path / "cut", 5, lines.append)
    assert "resuming after round 3 of 5" in lines
    for name in ("learner", "snapshots"):
        jax.tree.map(np.testing.assert_array_equal, getattr(whole, name), getattr(again, name))


@pytest.mark.usefixtures("unchecked_keys")
def test_checkpoints_of_another_training_are_not_continued(tmp_path):
    lines = []
    train_speed(tmp_path / "training", 2)
    train_speed(tmp_path / "training", 2, lines.append, seed=1)
    assert lines[0] == "the unfinished training was begun with other settings; starting again"


def test_rounds_begin_anew_and_prices_are_those_of_the_episodes():
    learner = ppo.init_learner(jax.random.key(0), SETTINGS, 1, 1)
    worlds = SimulatedWorlds(SpeedEnv(4), VELOCITY_PRICES, 0)
    runs = []
    for number in (3, 4, 3):
        worlds.begin(number)
        runs.append(worlds.rollout(learner, jax.random.key(1), 2 * STEPS))
    jax.tree.map(np.testing.assert_array_equal, runs[0][0], runs[2][0])
    assert not np.array_equal(runs[0][0].inputs, runs[1][0].inputs)
    rows, episodes = runs[0]
    # Worlds cut off their first episodes at a quarter, half and so on of the limit.
    assert [int(np.argmax(rows.ended[:, k])) + 1 for k in range(4)] == [10, 20, 30, 40]
    assert sorted(e.steps for e in episodes)[:4] == [10, 20, 30, 40]
    changes = np.diff(rows.price, axis=0) != 0
    assert np.array_equal(changes, rows.ended[:-1])
    assert episodes[0].price == rows.price[9, 0]
    assert episodes[0].reward == pytest.approx(
        rows.reward[:10, 0].sum() * TASK.reference_max / STEPS
    )
    assert not rows.terminated.any()


def test_inputs_of_velocity_tasks_are_their_observations():
    obs = np.ones((2, 1), np.float32)
    assert policy_inputs(TASK, obs) is obs
