"""CDT: its losses, its causal mask, its memory when it acts, and a probe with a known optimum."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import drawn, same_leaves, tiny_config, toy_context, toy_keys, toy_program
from deployment_toys import POLICIES, SHIELDS, deployed_program, toy_deployed
from value_toys import ACTIONS, NUMBERS, SIZE, Known, nonzero, small_config

from proco_jax.algorithms import cdt, make_algorithm
from proco_jax.algorithms.base import Previous, SegmentSpec
from proco_jax.common.checkpoint import Checkpoints
from proco_jax.config.schema import Config, EncoderConfig, replaced
from proco_jax.config.validation import validate
from proco_jax.deployment.policy import load_policies, load_policy, save_policies
from proco_jax.models.normalizer import Normalizer
from proco_jax.training import loop, sampling
from proco_jax.types import Dataset, Segment, TaskSpec, ToGo

K = 3
TASK = TaskSpec(NUMBERS, ACTIONS, episode_steps=20, cost_limit=10.0)
TINY = {"cdt.width": 8, "cdt.layers": 1, "cdt.heads": 2, "cdt.context": K, "cdt.batch": 4}
CONFIG = replaced(Config(encoder=EncoderConfig(rings=False, features=8)), TINY)
ALGORITHM, NET = cdt.make(CONFIG, TASK), cdt.make_network(CONFIG, TASK)
HYPER = ALGORITHM.hyper
# Without the geometry of the small observation, programs compile faster.
FLAT = replaced(tiny_config(), {"encoder.rings": False})
HEADS = {"action": {"mean", "log_std"}, "cost": {"cost"}, "state": {"next_obs"}}


@pytest.fixture(scope="module")
def state() -> cdt.State:
    """A state with parameters of a usual size, and targets."""
    fresh = jax.eval_shape(ALGORITHM.init, jax.random.key(0), HYPER)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), fresh)
    return zeros.replace(
        params=drawn(fresh.params), target_return=jnp.float32(7.0), target_cost=jnp.float32(2.0)
    )


@pytest.fixture(scope="module")
def forward() -> Any:
    """Compiled: parameters and the inputs of `B` segments to predictions."""
    return jax.jit(lambda params, *inputs: NET.apply(params, *inputs))


@pytest.fixture(scope="module")
def losses() -> Any:
    """Compiled: parameters and a batch to the gradients of each term, and all metrics."""

    def one(params: Any, batch: Segment, name: str) -> Any:
        found = cdt.total_loss(jax.random.key(1), HYPER, NET, params, jnp.float32(0.1), batch)[1]
        return found[f"cdt/{name}_loss"], found

    def every(params: Any, batch: Segment) -> Any:
        return {n: jax.grad(one, has_aux=True)(params, batch, n) for n in HEADS}

    return jax.jit(every)


def segments(count: int = 4, seed: int = 0, **others: Any) -> Segment:
    """Random segments; the last one has a logged step and two imagined ones."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(count, K, *shape)), jnp.float32)

    imagined = np.zeros((count, K), bool)
    imagined[-1, 1:] = True
    found = Segment(
        obs=normal(SIZE),
        action=0.5 * normal(ACTIONS),
        reward=normal(),
        cost=jnp.asarray(np.arange(count * K).reshape(count, K) % 2, jnp.float32),
        return_to_go=normal(),
        cost_to_go=3.0 * jnp.abs(normal()),
        timestep=jnp.broadcast_to(jnp.arange(K), (count, K)),
        mask=jnp.ones((count, K), bool),
        imagined=jnp.asarray(imagined),
    )
    return found._replace(**others)


def test_losses_by_hand():
    """Two segments of two steps: a logged one, and a logged step before an imagined one."""
    one = np.ones((2, 2), np.float32)
    batch = Segment(
        obs=jnp.array([[[0.0], [3.0]], [[0.0], [5.0]]]),
        action=jnp.array([[[1.0, 1.0], [2.0, 0.0]], [[9.0, 9.0], [0.0, 4.0]]]),
        reward=one,
        cost=jnp.array([[0.0, 1.0], [0.0, 2.0]]),
        return_to_go=one,
        cost_to_go=one,
        timestep=jnp.zeros((2, 2), jnp.int32),
        mask=jnp.ones((2, 2), bool),
        imagined=jnp.array([[False, False], [False, True]]),
    )
    log_std = math.log(2.0)

    def known(*inputs: Any) -> cdt.Predictions:
        shape = batch.action.shape
        return cdt.Predictions(
            mean=jnp.zeros(shape),
            log_std=jnp.full(shape, log_std),
            cost=jnp.full((2, 2), math.log(3.0)),
            next_obs=jnp.ones((2, 2, 1)),
        )

    def found(hyper: cdt.Hyper, as_published: bool = False) -> dict[str, float]:
        net: Any = Known(known)
        inputs = (jax.random.key(0), hyper, net, None, 0.5, batch, as_published)
        loss, metrics = cdt.total_loss(*inputs)
        return {"loss": float(loss)} | {n: float(x) for n, x in metrics.items()}

    hyper = HYPER._replace(imagined_weight=0.5, cost_weight=0.1, state_weight=10.0)
    got = found(hyper)
    # Squared lengths of the actions that count: 2, 4, and 16 with weight 1/2.
    square = (2.0 + 4.0 + 0.5 * 16.0) / 2.5
    likelihood = -square / 8.0 - 2.0 * log_std - math.log(2.0 * math.pi)
    assert got["cdt/log_likelihood"] == pytest.approx(likelihood, rel=1e-5)
    entropy = 2.0 * log_std + math.log(2.0 * math.pi * math.e)
    assert got["cdt/entropy"] == pytest.approx(entropy, rel=1e-5)
    assert got["cdt/action_loss"] == pytest.approx(-likelihood - 0.5 * entropy, rel=1e-5)
    # The predicted chance of a cost is 3/4. One step that counts is free, two cost.
    cost = (math.log(4.0) + 2.0 * math.log(4.0 / 3.0)) / 3.0
    assert got["cdt/cost_loss"] == pytest.approx(cost, rel=1e-5)
    # Of the logged segment alone, which goes from its first observation to 3.
    assert got["cdt/state_loss"] == pytest.approx(4.0, rel=1e-5)
    whole = got["cdt/action_loss"] + 0.1 * cost + 10.0 * 4.0
    assert got["loss"] == pytest.approx(whole, rel=1e-5)
    # The published terms are means over the two dimensions of an action.
    published = found(hyper, as_published=True)
    for name in ("log_likelihood", "entropy", "action_loss"):
        assert published[f"cdt/{name}"] == pytest.approx(got[f"cdt/{name}"] / 2.0, rel=1e-5)
    # The published mean of the costs is over all four steps, and one does not count.
    assert published["cdt/cost_loss"] == pytest.approx(cost * 3.0 / 4.0, rel=1e-5)


def test_a_block_by_hand():
    """Without attention, and with one hidden unit that reads the first number behind the norm."""
    block, x = cdt.Block(heads=1), jnp.array([[0.01, -0.01]])
    allowed = jnp.ones((1, 1), bool)
    like = jax.eval_shape(lambda: block.init(jax.random.key(0), x, allowed, 0.0))
    params: Any = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)["params"]
    params["LayerNorm_1"]["scale"] = jnp.ones(2)
    params["Dense_1"]["kernel"] = params["Dense_1"]["kernel"].at[0, 0].set(1.0)
    params["Dense_2"]["kernel"] = params["Dense_2"]["kernel"].at[0, 0].set(1.0)
    found: Any = block.apply({"params": params}, x, allowed, 0.0)
    # The variance of the two numbers is 1e-4, to which the norm adds 1e-5.
    hidden = 0.01 / math.sqrt(1.1e-4)
    gelu = 0.5 * hidden * (1.0 + math.erf(hidden / math.sqrt(2.0)))
    np.testing.assert_allclose(found, [[0.01 + gelu, -0.01]], rtol=1e-5)


def test_pasts_and_masked_steps_do_not_count_by_hand():
    batch = segments(mask=jnp.ones((4, K), bool).at[1, 2].set(False))
    expected = [[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 1, 1]]
    np.testing.assert_array_equal(cdt.counted(batch), expected)


def test_each_term_moves_its_own_heads_and_no_others(state, losses):
    found = losses(state.params, segments())
    trunk = {"return_token", "cost_token", "obs_token", "action_token", "Embed_0", "Block_0"}
    for name, (grads, _) in found.items():
        moved = {part for part, own in grads["params"].items() if nonzero(own)}
        assert moved & set.union(*HEADS.values()) == HEADS[name], name
        assert trunk <= moved, name


def test_imagined_steps_move_actions_and_costs_but_no_state(state, losses):
    batch = segments()
    other = batch._replace(
        obs=batch.obs.at[3, 2].add(1.0),
        action=batch.action.at[3, 2].add(1.0),
        cost=batch.cost.at[3, 2].set(1.0 - batch.cost[3, 2]),
    )
    before, after = (losses(state.params, rows) for rows in (batch, other))
    same_leaves(before["state"][0], after["state"][0])
    for name in ("action", "cost"):
        with pytest.raises(AssertionError):
            same_leaves(before[name][0], after[name][0])
    # What comes before the first imagined step is context: its own action is not learned.
    past = batch._replace(cost=batch.cost.at[3, 0].set(1.0 - batch.cost[3, 0]))
    same_leaves(losses(state.params, past)["cost"][0], before["cost"][0])


def test_without_costs_the_cost_token_says_nothing(state, losses):
    """What is left is a decision transformer: no limit and no cost embedding has any effect."""
    zeros = jnp.zeros((4, K))
    safe = segments(cost=zeros, cost_to_go=zeros)
    found = losses(state.params, safe)
    for name, (grads, _) in found.items():
        assert not nonzero(grads["params"]["cost_token"]["kernel"]), name
    np.testing.assert_array_equal(cdt.cost_token(HYPER, zeros), 0.0)
    np.testing.assert_array_equal(
        cdt.cost_token(HYPER._replace(cost_limit=jnp.float32(80.0)), zeros), 0.0
    )
    grads = losses(state.params, segments())["action"][0]
    assert nonzero(grads["params"]["cost_token"]["kernel"])


def test_cost_tokens_by_hand():
    cost = jnp.array([0.0, 5.0, 70.0])
    np.testing.assert_allclose(cdt.cost_token(HYPER, cost), [0.0, 0.5, 7.0])
    np.testing.assert_allclose(cdt.cost_token(HYPER, cost, True), [50.0, 45.0, -20.0])
    strict = HYPER._replace(cost_limit=jnp.float32(0.0))
    np.testing.assert_allclose(cdt.cost_token(strict, cost), cost)


def test_the_mask_is_causal(state, forward):
    """A token changes predictions from its own place on, and none before it."""
    base = cdt.tokens(HYPER, segments(1))
    rows = [base]
    for kind in range(4):
        for k in range(K):
            changed = list(base)
            changed[kind] = base[kind].at[0, k].add(1.0)
            rows.append(tuple(changed))
    found = forward(state.params, *(jnp.concatenate(x) for x in zip(*rows, strict=True)))

    def moved_steps(values: Any) -> np.ndarray:
        """Whether a token moved the prediction of each step: kinds, its step, steps."""
        change = np.abs(np.asarray(values[1:] - values[:1])).reshape(4, K, K, -1)
        return change.max(axis=-1) > 1e-6

    moved = jax.tree.map(moved_steps, found)
    later = np.tri(K, dtype=bool).T
    strictly = np.tri(K, k=-1, dtype=bool).T
    for kind in range(4):
        # The action of a step is predicted without it, its cost and the next observation with it.
        of_action = strictly if kind == 3 else later
        np.testing.assert_array_equal(moved.mean[kind], of_action, err_msg=f"mean, {kind}")
        np.testing.assert_array_equal(moved.log_std[kind], of_action, err_msg=f"log_std, {kind}")
        np.testing.assert_array_equal(moved.cost[kind], later, err_msg=f"cost, {kind}")
        np.testing.assert_array_equal(moved.next_obs[kind], later, err_msg=f"next_obs, {kind}")


@pytest.mark.slow
def test_acting_equals_teacher_forcing(state, forward):
    """The mean action of every step of an episode is that of the segment which ends there."""
    steps = 2 * K
    rng = np.random.default_rng(3)
    obs = jnp.asarray(rng.normal(size=(steps, SIZE)), jnp.float32)
    action = jnp.asarray(rng.uniform(-1, 1, (steps, ACTIONS)), jnp.float32)
    reward = jnp.asarray(rng.normal(size=steps), jnp.float32)
    cost = jnp.asarray([0, 1, 0, 0.5, 3, 0], jnp.float32)

    @jax.jit
    def episode(state: cdt.State) -> Any:
        def step(carry: Any, inputs: Any) -> Any:
            memory, previous = carry
            o, a, r, c = inputs
            memory = cdt.observe(state, memory, o, previous)
            mean, _ = cdt.act_on(HYPER, NET, state, memory)
            return (memory, Previous(a, r, c)), mean

        nothing = loop.no_previous(ACTIONS)
        start = (ALGORITHM.initial_carry(), nothing)
        return jax.lax.scan(step, start, (obs, action, reward, cost))[1]

    left = 7.0 - np.concatenate([[0.0], np.cumsum(reward)[:-1]])
    budget = np.maximum(2.0 - np.concatenate([[0.0], np.cumsum(cost)[:-1]]), 0.0)
    begin = np.maximum(np.arange(steps) - K + 1, 0)
    at = begin[:, None] + np.arange(K)
    mask, at = at <= np.arange(steps)[:, None], np.minimum(at, steps - 1)
    # The present action is unknown when the policy acts, and has no effect.
    segment = segments(steps)._replace(
        obs=obs[at],
        action=action[at],
        return_to_go=jnp.asarray(left, jnp.float32)[at],
        cost_to_go=jnp.asarray(budget, jnp.float32)[at],
        timestep=jnp.asarray(at),
        mask=jnp.asarray(mask),
    )
    forced = forward(state.params, *cdt.tokens(HYPER, segment)).mean
    expected = np.asarray(forced)[np.arange(steps), np.arange(steps) - begin]
    np.testing.assert_allclose(episode(state), expected, rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.round(expected, 4), axis=0)) == steps


def test_masked_steps_change_nothing(state, forward):
    batch = segments(mask=jnp.ones((4, K), bool).at[1, 2].set(False))
    other = batch._replace(obs=batch.obs.at[1, 2].set(9.0), return_to_go=batch.return_to_go + 0.0)
    one, two = (forward(state.params, *cdt.tokens(HYPER, x)).mean for x in (batch, other))
    keep = np.asarray(batch.mask)
    np.testing.assert_array_equal(np.asarray(one)[keep], np.asarray(two)[keep])


def test_memory_by_hand(state):
    memory = ALGORITHM.initial_carry()
    nothing = loop.no_previous(ACTIONS)
    memory = cdt.observe(state, memory, jnp.full(SIZE, 1.0), nothing)
    np.testing.assert_array_equal(memory.return_to_go, [0, 0, 7])
    np.testing.assert_array_equal(memory.cost_to_go, [0, 0, 2])
    np.testing.assert_array_equal(memory.action, 0.0)
    # A shield executed this action, whatever was proposed.
    executed = Previous(jnp.array([0.3, -0.4]), jnp.float32(1.5), jnp.float32(3.0))
    later = cdt.observe(state, memory, jnp.full(SIZE, 2.0), executed)
    np.testing.assert_array_equal(later.obs[:, 0], [0, 1, 2])
    np.testing.assert_allclose(later.action, [[0, 0], [0.3, -0.4], [0, 0]])
    np.testing.assert_array_equal(later.return_to_go, [0, 7, 5.5])
    # The cost exceeds what was left; the published code goes below 0.
    np.testing.assert_array_equal(later.cost_to_go, [0, 2, 0])
    assert int(later.steps) == 2
    published = cdt.observe(state, memory, jnp.full(SIZE, 2.0), executed, as_published=True)
    np.testing.assert_array_equal(published.cost_to_go, [0, 2, -1])


def two_step_logs(reward: list[float], cost: list[float]) -> tuple[Dataset, ToGo]:
    """Episodes of two steps with these rewards and costs."""
    count = len(reward)
    step = jnp.arange(count) % 2
    data = Dataset(
        obs=jnp.zeros((count + count // 2, SIZE)),
        obs_index=jnp.arange(count) + jnp.arange(count) // 2,
        action=jnp.zeros((count, ACTIONS)),
        reward=jnp.array(reward),
        cost=jnp.array(cost),
        discount=jnp.ones(count),
        episode=jnp.arange(count) // 2,
        remaining=1 - step,
        step=step,
    )
    return data, sampling.sums_to_go(data, data.cost)


def test_targets_by_hand(state):
    set_targets = jax.jit(cdt.set_targets)
    # Returns 1, 3, 9, 2 at costs 0, 10, 11, 0.
    logs = two_step_logs([1.0, 0.0, 1.0, 2.0, 4.0, 5.0, 2.0, 0.0], [0, 0, 4, 6, 1, 10, 0, 0])

    def targets(**settings: float) -> tuple[float, float]:
        hyper = jax.tree.map(jnp.float32, HYPER._replace(**settings))
        found = set_targets(hyper, state, *logs)
        return float(found.target_return), float(found.target_cost)

    assert targets(target_quantile=1.0) == (3.0, 10.0)
    assert targets(target_quantile=0.5) == (2.0, 10.0)
    assert targets(target_quantile=1.0, target_cost=0.5) == (2.0, 5.0)
    assert targets(target_quantile=1.0, target_cost=2.0) == (9.0, 20.0)
    assert targets(target_return=40.0) == (40.0, 10.0)
    # No episode is within the target: those that cost least.
    logs = two_step_logs([1.0, 0.0, 1.0, 2.0], [20, 0, 30, 0])
    assert targets(target_quantile=1.0) == (1.0, 10.0)


@pytest.mark.slow
def test_published_segments_leave_costly_episodes_out():
    data, to_go = two_step_logs([0.0] * 6, [0.0, 35.0, 70.0, 0.0, 0.0, 0.0])

    def shares(ceiling: float | None) -> np.ndarray:
        spec = SegmentSpec(K, 4000, ceiling)
        index = sampling.draw_starts(jax.random.key(0), spec, data, to_go)
        return np.bincount(np.asarray(index), minlength=6) / 4000

    third = 35.0 / 105.0 / 2.0
    expected = [third, third, 0.0, 0.0, 2.0 * third, 2.0 * third]
    np.testing.assert_allclose(shares(70.0), expected, atol=0.03)
    np.testing.assert_allclose(shares(None), 1 / 6, atol=0.03)
    # If no episode is below it, all are drawn.
    np.testing.assert_allclose(shares(0.0), 1 / 6, atol=0.03)
    published = cdt.make(replaced(CONFIG, {"cdt.as_published": True}), TASK)
    assert published.segments == SegmentSpec(K, 4, 70.0)
    assert ALGORITHM.segments == SegmentSpec(K, 4, None)


@pytest.fixture(scope="module")
def updated() -> Any:
    """Compiled: one update of the default algorithm."""
    return jax.jit(ALGORITHM.update)


@pytest.mark.slow
def test_the_temperature_holds_the_entropy_at_minus_the_action_size(state, updated):
    batch = segments()

    def moves(bias: float) -> float:
        params = jax.tree.map(jnp.zeros_like, state.params)
        params["params"]["log_std"]["bias"] = jnp.full(ACTIONS, bias)
        before = state.replace(params=params)
        after, metrics = updated(jax.random.key(2), HYPER, before, batch)
        # A sum over dimensions of log(std) + log(2 pi e) / 2.
        std = -5.0 + 7.0 / (1.0 + math.exp(-bias))
        expected = ACTIONS * (std + 0.5 * math.log(2.0 * math.pi * math.e))
        assert float(metrics["cdt/entropy"]) == pytest.approx(expected, abs=1e-4)
        return float(after.log_temperature - before.log_temperature)

    # Adam's first step has the size of its learning rate.
    rate = float(HYPER.temperature_learning_rate)
    assert moves(3.0) == pytest.approx(-rate, rel=1e-3)
    assert moves(-3.0) == pytest.approx(rate, rel=1e-3)


@pytest.mark.slow
def test_the_first_steps_are_short_and_gradients_bounded(state, updated):
    """Adam's step is independent of a gradient's size, so the clip shows in its moments."""
    batch = segments(return_to_go=1e3 * jnp.ones((4, K)), action=1e3 * jnp.ones((4, K, ACTIONS)))
    hyper = HYPER._replace(learning_rate=jnp.float32(1.0), weight_decay=jnp.float32(0.0))
    after, metrics = updated(jax.random.key(3), hyper, state, batch)
    assert float(metrics["cdt/gradient"]) > 10.0
    size = math.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(after.optimizer.mu)))
    assert size == pytest.approx(0.1 * float(HYPER.gradient_limit), rel=1e-3)
    change = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), after.params, state.params)
    # The first of 500 steps of the warm-up.
    assert max(jax.tree.leaves(change)) == pytest.approx(1.0 / 500.0, rel=1e-2)


@pytest.mark.slow
def test_a_probe_is_solved_to_its_constrained_optimum():
    """Three actions in one state: the best of those within the target cost is taken."""
    choice = jnp.array([0.1, -0.5, 0.8])
    reward, cost = jnp.array([0.0, 0.5, 1.0]), jnp.array([0.0, 0.0, 1.0])
    task = TaskSpec(NUMBERS, 1, episode_steps=1, cost_limit=1.0)
    small = TINY | {"cdt.width": 16, "cdt.context": 1, "cdt.dropout": 0.0, "cdt.batch": 32}
    fast = {"cdt.learning_rate": 3e-3, "cdt.warmup_steps": 10.0, "train.steps": 600}
    exact = {"cdt.reward_scale": 1.0, "cdt.target_quantile": 1.0}
    algorithm = cdt.make(replaced(CONFIG, small | fast | exact), task)
    count = 30
    zeros, which = jnp.zeros(count, jnp.int32), jnp.arange(count) % 3
    data = Dataset(
        obs=jnp.zeros((2 * count, SIZE)),
        obs_index=2 * jnp.arange(count),
        action=choice[which][:, None],
        reward=reward[which],
        cost=cost[which],
        discount=jnp.zeros(count),
        episode=jnp.arange(count),
        remaining=zeros,
        step=zeros,
    )
    to_go = sampling.sums_to_go(data, data.cost)
    plain = Normalizer(jnp.zeros(SIZE), jnp.ones(SIZE))

    @jax.jit
    def learn(key: jax.Array) -> cdt.State:
        init_key, loop_key = jax.random.split(key)

        def step(state: cdt.State, key: jax.Array) -> tuple[cdt.State, None]:
            row_key, update_key = jax.random.split(key)
            rows = jax.random.randint(row_key, (32,), 0, count)
            batch = sampling.gather_segments(data, plain, to_go, rows, 1)
            return algorithm.update(update_key, algorithm.hyper, state, batch)[0], None

        fresh = algorithm.init(init_key, algorithm.hyper)
        return jax.lax.scan(step, fresh, jax.random.split(loop_key, 600))[0]

    learned = learn(jax.random.key(4))
    act = jax.jit(algorithm.act)
    assert algorithm.prepare is not None
    for share, best in ((0.0, -0.5), (1.0, 0.8)):
        hyper = algorithm.hyper._replace(target_cost=jnp.float32(share))
        given = algorithm.prepare(hyper, learned, data, to_go)
        inputs = (algorithm.initial_carry(), jnp.zeros(SIZE), loop.no_previous(1))
        action, _ = act(jax.random.key(5), hyper, given, *inputs)
        assert float(action[0]) == pytest.approx(best, abs=0.1), share


@pytest.mark.slow
def test_resume_is_bit_exact_and_members_are_one_trace(tmp_path):
    program = toy_program("cdt", "none", FLAT)
    traces: list[int] = []

    def update(*inputs: Any) -> Any:
        traces.append(1)
        return program.algorithm.update(*inputs)

    counted = program._replace(algorithm=program.algorithm._replace(update=update))
    # The checker refuses a scan over keys inside the vmap over members.
    with jax.debug_key_reuse(False):
        context, hyper = toy_context(with_world=False), loop.make_hyper(program, 2)
        training = loop.make_training(counted)
        state = jax.device_put(training.init(context, hyper, toy_keys()), jax.devices()[0])
        first, metrics = training.chunk(context, hyper, state)
        once = len(traces)
        with Checkpoints(tmp_path / "train") as saved:
            saved.save(4, first)
        second, _ = training.chunk(context, hyper, first)
        with Checkpoints(tmp_path / "train") as saved:
            restored = saved.restore(jax.eval_shape(lambda: second))
        assert restored is not None
        again, _ = training.chunk(context, hyper, restored[1])
    same_leaves(again, second)
    assert len(traces) == once and training.compiled._cache_size() == 1
    assert all(np.all(np.isfinite(x)) for x in metrics.values())
    # Targets come from the logs: costs are 0, and the cost limit is 10.
    data = context.data
    returns = [float(jnp.sum(data.reward[data.episode == e])) for e in range(12)]
    expected = np.quantile(returns, 0.9)
    np.testing.assert_allclose(second.algorithm.target_return, expected, rtol=1e-4)
    np.testing.assert_array_equal(second.algorithm.target_cost, 10.0)


@pytest.mark.slow
def test_a_loaded_policy_acts_under_every_shield_and_remembers(tmp_path):
    program = deployed_program("cdt", FLAT)
    deployed = toy_deployed(program, (0.0, -1e9))
    save_policies(tmp_path, program, "cdt", "proco", deployed)
    same_leaves(load_policies(tmp_path, "cdt", "proco")[1], deployed)
    obs = np.random.default_rng(0).random(program.task.observation.size).astype(np.float32)
    for shield in SHIELDS:
        policy = load_policy(tmp_path, "cdt", "proco", shield, seed=POLICIES - 1)
        first, carry = policy.act(policy.initial_carry(), obs, jax.random.key(0))
        executed = np.array([0.5, -0.5], np.float32)
        after = policy.act(carry, obs, jax.random.key(1), executed, reward=0.25, cost=1.0)
        assert first.shape == (ACTIONS,) and np.abs(first).max() <= 1.0
        memory = jax.tree.map(lambda x: np.asarray(x[0, 0]), after[1])
        np.testing.assert_array_equal(memory.action[-2], executed)
        target = np.asarray(deployed.algorithm.target_return)[-1]
        np.testing.assert_allclose(memory.return_to_go[-2:], [target, target - 0.25], rtol=1e-5)
        assert memory.steps == 2


def test_sampled_actions_are_in_range_and_differ(state):
    assert ALGORITHM.sample_actions is not None and ALGORITHM.critics is None
    given = (HYPER, state, ALGORITHM.initial_carry(), jnp.ones(SIZE), loop.no_previous(ACTIONS))
    sample = jax.jit(ALGORITHM.sample_actions, static_argnums=6)
    found, carry = sample(jax.random.key(6), *given, 5)
    found = np.asarray(found)
    assert found.shape == (5, ACTIONS) and np.abs(found).max() <= 1.0
    assert len(np.unique(found, axis=0)) == 5 and int(carry.steps) == 1


def test_the_width_is_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match=r"cdt\.width: found 8, expected a multiple of .*heads=3"):
        validate(replaced(Config(), {"cdt.width": 8, "cdt.heads": 3}))


def test_the_encoder_is_the_ring_encoder_or_a_linear_layer():
    config = small_config("bcq_lag")
    plain = make_algorithm("cdt", config, TASK)
    params = jax.eval_shape(plain.init, jax.random.key(0), plain.hyper).params["params"]
    assert "encoder" not in params and params["obs_token"]["kernel"].shape[0] == SIZE
    rings = toy_program("cdt", "none").algorithm
    params = jax.eval_shape(rings.init, jax.random.key(0), rings.hyper).params["params"]
    assert "encoder" in params and params["obs_token"]["kernel"].shape[0] == 16
