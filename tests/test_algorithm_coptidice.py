import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, SPEC, TASK, drawn, random_batch, same_leaves, tiny_config
from value_toys import Known

from proco_jax.algorithms import coptidice
from proco_jax.config.schema import Config, CoptidiceConfig, EncoderConfig, TrainConfig, replaced
from proco_jax.models.networks import apply
from proco_jax.observation import Field, ObservationSpec
from proco_jax.training.loop import no_previous
from proco_jax.types import NStep, TaskSpec, Transition

# Plain encoders compile fast; ring encoders train in `test_training.py`.
CONFIG = replaced(tiny_config(), {"encoder.rings": False})
ALGORITHM = coptidice.make(CONFIG, TASK)
HYPER = ALGORITHM.hyper
NETS = coptidice.make_networks(CONFIG, TASK)
LOSSES = ("nu", "chi", "tau", "lam", "policy")
UPDATE = jax.jit(
    lambda key, state, batch, as_published=False: coptidice.update(
        key, HYPER, NETS, state, batch, as_published
    ),
    static_argnums=3,
)


def known(nu: Any, chi: Any) -> coptidice.Networks:
    """Networks of these values, whose second head is higher, and a Gaussian of mean 0, std 1."""

    def heads(f: Any) -> Any:
        return Known(lambda o: jnp.stack([f(o), f(o) + 1.0], axis=-1))

    def gaussian(o: Any) -> Any:
        zeros = jnp.zeros((*o.shape[:-1], ACTIONS))
        return zeros, zeros

    nets: Any = (heads(nu), heads(chi), Known(gaussian))
    return coptidice.Networks(*nets)


def multipliers(lam: float, tau: float) -> dict[str, Any]:
    """Parameters of networks without any, and multipliers of these values."""
    raw = {"lam": jnp.log(jnp.expm1(lam)), "tau": jnp.log(jnp.expm1(tau))}
    return {"nu": None, "chi": None, "policy": None, "multipliers": raw}


def without_costs(batch: Transition) -> Transition:
    steps = batch.n_step
    steps = steps._replace(
        cost=jnp.zeros_like(steps.cost), violation=jnp.zeros_like(steps.violation)
    )
    return batch._replace(cost=jnp.zeros_like(batch.cost), n_step=steps)


@pytest.fixture(scope="module")
def state() -> coptidice.State:
    return jax.jit(lambda k: coptidice.init(NETS, k))(jax.random.key(0))


@pytest.fixture(scope="module")
def batch() -> Transition:
    return random_batch(logged=6, imagined=4)


def test_density_ratio_and_conjugate_by_hand():
    x = jnp.array([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(coptidice.density_ratio(x), [math.exp(-1), 1, 2], rtol=1e-6)
    np.testing.assert_allclose(coptidice.conjugate(x), [math.exp(-1) - 1, 0, 1.5], rtol=1e-6)


def test_the_ratio_is_the_derivative_of_the_conjugate_and_attains_it():
    x = jnp.linspace(-3.0, 3.0, 13)
    ratio = coptidice.density_ratio(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(coptidice.conjugate))(x), ratio, rtol=1e-5)
    f = jnp.where(ratio < 1, ratio * (jnp.log(ratio) - 1) + 1, 0.5 * (ratio - 1) ** 2)
    np.testing.assert_allclose(ratio * x - f, coptidice.conjugate(x), rtol=1e-4, atol=1e-5)


def test_worst_rows_by_hand():
    ell, weight = jnp.array([0.0, math.log(3.0), 50.0]), jnp.array([1.0, 1.0, 0.0])
    share, divergence = coptidice.worst_rows(ell, weight, jnp.float32(1.0))
    np.testing.assert_allclose(share, [0.25, 0.75, 0.0], rtol=1e-5)
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(divergence) == pytest.approx(expected, rel=1e-4)
    share, divergence = coptidice.worst_rows(ell, weight, jnp.float32(1e6))
    np.testing.assert_allclose(share, [0.5, 0.5, 0.0], rtol=1e-4)
    assert float(divergence) == pytest.approx(0.0, abs=1e-6)


def by_hand() -> tuple[Transition, coptidice.Networks]:
    """Two logged rows and an imagined one; nu is 2 at the start, 1 in states, 3 in next ones."""
    rows = random_batch(2, 1, n=2)
    ones = jnp.ones((3, SPEC.size))
    rows = rows._replace(
        obs=ones,
        next_obs=3.0 * ones,
        initial_obs=jnp.array([2.0, 2.0, 77.0])[:, None] * ones,
        action=jnp.zeros((3, ACTIONS)).at[0, 0].set(2.0),
        reward=jnp.array([0.5, 0.0, -1.0]),
        cost=jnp.array([0.0, 1.0, 1.0]),
        discount=jnp.array([1.0, 0.0, 1.0]),
    )
    return rows, known(lambda o: o[..., 0], lambda o: 2.0 * o[..., 0])


def test_every_loss_by_hand():
    batch, nets = by_hand()
    hyper = HYPER._replace(
        discount=0.5, alpha=2.0, noise=0.0, limit=0.1, kl_limit=0.01, imagined_weight=0.5
    )
    params = multipliers(lam=0.5, tau=4.0)

    @jax.jit
    def losses(key, params, batch):
        return coptidice.total_loss(key, hyper, nets, params, batch)[1]

    found = losses(jax.random.key(1), params, batch)
    # e = 0.5 + 1.5 - 1, -0.5 - 1, -1 - 0.5 + 1.5 - 1, and x = e / 2.
    x = np.array([0.5, -0.75, -0.5])
    dual = 2.0 * np.array([0.5 + 0.125, math.exp(-0.75) - 1, math.exp(-0.5) - 1])
    assert float(found["coptidice/nu_loss"]) == pytest.approx(0.5 * 2.0 + dual.mean(), rel=1e-4)
    w = np.array([1.5, math.exp(x[1]), math.exp(x[2])])
    assert float(found["coptidice/weight"]) == pytest.approx(w.mean(), rel=1e-4)
    # chi is 4 at the start, 2 in states, 6 in next ones; only the two logged rows are initial.
    ell = np.array([1.5, 1.5, 0.0]) * 0.5 * 4.0 + w * np.array([3.0 - 2.0, 1.0 - 2.0, 1 + 3 - 2])
    share = np.exp(ell / 4.0) / np.exp(ell / 4.0).sum()
    assert float(found["coptidice/chi_loss"]) == pytest.approx(share @ ell, rel=1e-4)
    bound = share[1] * w[1] + share[2] * w[2]
    assert float(found["coptidice/cost_bound"]) == pytest.approx(bound, rel=1e-4)
    divergence = share @ np.log(3.0 * share)
    assert float(found["coptidice/tau_loss"]) == pytest.approx(4.0 * (0.01 - divergence), rel=1e-3)
    assert float(found["coptidice/lam_loss"]) == pytest.approx(0.5 * (0.1 - bound), rel=1e-3)
    # The first action is 2 standard deviations from the mean in one dimension; others are the mean.
    assert float(found["coptidice/policy_loss"]) == pytest.approx(1.5 * 2.0 / 3, rel=1e-4)


class Slope:
    """A value of two heads that is the parameter times the first number of an observation."""

    def apply(self, slope: Any, obs: Any) -> Any:
        return jnp.stack([slope * obs[..., 0], slope * obs[..., 0] + 1.0], axis=-1)


def test_the_gradient_of_chi_by_hand():
    batch, nets = by_hand()
    nets = nets._replace(chi=Slope())  # pyright: ignore
    hyper = HYPER._replace(discount=0.5, alpha=2.0, noise=0.0)

    def gradient(as_published: bool) -> float:
        def chi_loss(slope: Any) -> Any:
            params = multipliers(lam=0.5, tau=4.0) | {"chi": slope}
            given = (jax.random.key(1), hyper, nets, params, batch, as_published)
            return coptidice.total_loss(*given)[0]

        return float(jax.grad(chi_loss)(2.0))

    # w, and ell at a slope of 2, as in the test above; the slope's gradient of ell.
    w = np.array([1.5, math.exp(-0.75), math.exp(-0.5)])
    ell = np.array([3.0, 3.0, 0.0]) + w * np.array([1.0, -1.0, 2.0])
    slopes = np.array([1.5, 1.5, 0.0]) + w * np.array([0.5, -1.0, 0.5])
    share = np.exp(ell / 4.0) / np.exp(ell / 4.0).sum()
    # That of the bound 4 log mean exp(ell / 4).
    assert gradient(False) == pytest.approx(share @ slopes, rel=1e-4)
    through_shares = share * (1.0 + (ell - share @ ell) / 4.0)
    assert gradient(True) == pytest.approx(through_shares @ slopes, rel=1e-4)


def test_each_loss_moves_only_its_own_parameters(state, batch):
    @jax.jit
    def by_loss(params):
        def gradient(name):
            return jax.grad(
                lambda p: coptidice.total_loss(jax.random.key(2), HYPER, NETS, p, batch)[1][
                    f"coptidice/{name}_loss"
                ]
            )(params)

        return {name: gradient(name) for name in LOSSES}

    found = by_loss(drawn(state.params))
    for name, grads in found.items():
        parts = {part: grads[part] for part in ("nu", "chi", "policy")} | grads["multipliers"]
        for part, tree in parts.items():
            moved = any(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(tree))
            assert moved == (part == name), f"{name} loss, {part}"


@pytest.mark.slow
def test_imagined_rows_are_no_initial_states_but_shape_nu(state, batch):
    def learn(rows: Transition) -> Any:
        return UPDATE(jax.random.key(3), state, rows)[0].params

    mask = batch.imagined[:, None]
    usual = learn(batch)
    same_leaves(learn(batch._replace(initial_obs=jnp.where(mask, 9.0, batch.initial_obs))), usual)
    cost = jnp.where(batch.imagined, 5.0, batch.cost)
    for changed in (
        batch._replace(initial_obs=jnp.where(mask, batch.initial_obs, 9.0)),
        batch._replace(cost=cost),
    ):
        with pytest.raises(AssertionError):
            same_leaves(learn(changed)["nu"], usual["nu"])


@pytest.mark.slow
def test_without_costs_lambda_falls_to_zero_and_the_rest_is_optidice(state, batch):
    safe = without_costs(batch)

    @jax.jit
    def learn(s):
        hyper = HYPER._replace(multiplier_learning_rate=0.2)
        keys = jax.random.split(jax.random.key(4), 100)
        return jax.lax.scan(lambda s, k: coptidice.update(k, hyper, NETS, s, safe), s, keys)

    learned, metrics = learn(state)
    assert np.all(np.diff(metrics["coptidice/lam"]) < 0)
    assert float(metrics["coptidice/lam"][-1]) < 0.01
    # nu, w and the policy of OptiDICE do not know lambda.
    params = {**state.params, "multipliers": {"lam": jnp.float32(-30.0), "tau": jnp.float32(1.0)}}
    plain, _ = learn(state.replace(params=params))
    for part in ("nu", "policy"):
        same_leaves(learned.params[part], plain.params[part])


def test_published_limit_is_that_of_a_discounted_sum():
    task = TASK._replace(episode_steps=1000)
    assert coptidice.cost_limit(task, 0.99, as_published=False) == pytest.approx(0.01)
    assert coptidice.cost_limit(task, 0.99, as_published=True) == pytest.approx(1.0, rel=1e-3)
    for published, limit in ((False, 10 / 20), (True, 10 / 20 * (1 - 0.99**20) / 0.01)):
        config = replaced(CONFIG, {"coptidice.as_published": published})
        assert float(coptidice.make(config, TASK).hyper.limit) == pytest.approx(limit, rel=1e-4)


def test_published_actions_are_squashed_twice(state):
    published = coptidice.make(replaced(CONFIG, {"coptidice.as_published": True}), TASK)
    assert published.sample_actions is not None and ALGORITHM.sample_actions is not None
    params = {**state.params, "policy": drawn(state.params["policy"])}
    given = (HYPER, state.replace(params=params), (), jnp.ones(SPEC.size), no_previous(ACTIONS))
    mean, log_std = apply(NETS.policy, params["policy"], jnp.ones(SPEC.size))
    action, _ = published.act(jax.random.key(5), *given)
    np.testing.assert_allclose(action, np.tanh(mean), rtol=1e-5)
    key = jax.random.key(6)
    plain = np.asarray(ALGORITHM.sample_actions(key, *given, 4000)[0])
    squashed = np.asarray(published.sample_actions(jax.random.clone(key), *given, 4000)[0])
    np.testing.assert_allclose(np.median(plain, axis=0), mean, atol=0.05)
    np.testing.assert_allclose(np.median(squashed, axis=0), np.tanh(mean), atol=0.05)
    assert np.exp(log_std).min() > 0 and len(np.unique(plain[:, 0])) > 100


@pytest.mark.slow
def test_published_time_limits_are_terminations(state, batch):
    steps = batch.n_step
    # The third logged row and the last imagined row have no second step.
    rows = batch._replace(
        n_step=steps._replace(valid=steps.valid.at[2, 1:].set(False).at[9, 1:].set(False))
    )
    ended = rows._replace(discount=rows.discount.at[2].set(0.0))
    corrected, published, expected = (
        UPDATE(jax.random.key(7), state, *inputs)[0].params["nu"]
        for inputs in ((rows,), (rows, True), (ended,))
    )
    same_leaves(published, expected)
    with pytest.raises(AssertionError):
        same_leaves(published, corrected)
    config = replaced(CONFIG, {"coptidice.as_published": True, "train.n_step": 1})
    with pytest.raises(ValueError, match=r"coptidice\.as_published: found .*n_step=1"):
        coptidice.make(config, TASK)


def test_the_policy_acts_with_one_of_its_samples(state):
    assert ALGORITHM.sample_actions is not None and ALGORITHM.critics is None
    given = (HYPER, state, (), jnp.ones(SPEC.size), no_previous(ACTIONS))
    key = jax.random.key(8)
    action, _ = ALGORITHM.act(key, *given)
    samples, _ = ALGORITHM.sample_actions(jax.random.clone(key), *given, 1)
    np.testing.assert_array_equal(action, samples[0])


# A choice of one of three actions, again and again, in a single state. Their rewards are 0, 0.5, 1,
# and the last one costs 1.
ACTION, REWARD, COST = jnp.array([-0.8, 0.0, 0.8]), jnp.array([0.0, 0.5, 1.0]), jnp.eye(3)[2]
BANDIT = TaskSpec(ObservationSpec((Field("one", 1, "flat", "", "Always 1."),)), 1, 10, 1.0)
BANDIT_CONFIG = Config(
    encoder=EncoderConfig(features=8, rings=False),
    coptidice=CoptidiceConfig(
        hidden=(8,),
        learning_rate=0.01,
        multiplier_learning_rate=0.01,
        discount=0.5,
        alpha=0.5,
        # The bound is then the mean.
        kl_limit=1e-6,
        noise=0.0,
    ),
    train=TrainConfig(steps=3000),
)


def solve(penalty: float) -> np.ndarray:
    """The optimal w of the bandit for a multiplier: their mean is 1, by bisection of nu."""
    low, high = -5.0, 5.0
    for _ in range(60):
        level = (low + high) / 2
        x = (np.asarray(REWARD) - penalty * np.asarray(COST) - level) / 0.5
        w = np.where(x < 0, np.exp(np.minimum(x, 0)), x + 1)
        low, high = (level, high) if w.mean() > 1 else (low, level)
    return w


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "by_hand"), [(0.1, [0.856, 1.844, 0.3]), (1.0, None)])
def test_a_bandit_is_solved_to_its_constrained_optimum(limit, by_hand):
    """With a limit of 0.1, w is 0.3 at the action that costs, and for the other two
    w1 + w2 = 2.7 and w2 - 1 - log w1 = 1. With a limit of 1 the constraint does not bind."""
    task = BANDIT._replace(cost_limit=10.0 * limit)
    algorithm = coptidice.make(BANDIT_CONFIG, task)
    obs, ones = jnp.ones((3, 1)), jnp.ones(3)
    steps = NStep(
        REWARD[:, None], COST[:, None], COST[:, None] > 0, jnp.ones((3, 1), bool), obs, ones
    )
    rows = Transition(
        obs, ACTION[:, None], REWARD, COST, obs, ones, obs, steps, ones, jnp.zeros(3, bool)
    )

    @jax.jit
    def learn(key):
        init_key, loop_key = jax.random.split(key)
        keys = jax.random.split(loop_key, BANDIT_CONFIG.train.steps)
        first = algorithm.init(init_key, algorithm.hyper)
        return jax.lax.scan(
            lambda s, k: algorithm.update(k, algorithm.hyper, s, rows), first, keys
        )[0]

    state = learn(jax.random.key(9))
    nets = coptidice.make_networks(BANDIT_CONFIG, task)
    lam = jax.nn.softplus(state.params["multipliers"]["lam"])
    e = coptidice.advantages(algorithm.hyper, nets, state.params, rows, lam)
    w = np.asarray(coptidice.density_ratio(e / 0.5))
    expected = solve(0.0) if by_hand is None else np.array(by_hand)
    np.testing.assert_allclose(w, expected, atol=0.06)
    if by_hand is None:
        assert float(lam) < 0.02
    else:
        assert float(w @ COST / 3) == pytest.approx(limit, abs=0.02)
        assert solve(float(lam)) == pytest.approx(expected, abs=0.06)
    # The policy's mean is that of the actions weighted by w.
    mean = apply(nets.policy, state.params["policy"], obs[0])[0]
    np.testing.assert_allclose(mean, w @ np.asarray(ACTION) / w.sum(), atol=0.05)
