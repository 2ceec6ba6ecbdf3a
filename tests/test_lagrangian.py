import jax
import jax.numpy as jnp
import numpy as np
import pytest
from value_toys import TASK, Known, make_rows, small_config

from proco_jax.algorithms import lagrangian_critics, make_algorithm, temporal_difference
from proco_jax.algorithms.gradient_step import gradient_step
from proco_jax.algorithms.lagrangian import PidHyper, initial_pid, pid_step, value_limit
from proco_jax.config.schema import replaced
from proco_jax.models.losses import weighted_mean

# Published gains, with a cap that a few errors reach.
GAINS = PidHyper(*(jnp.float32(x) for x in (0.1, 0.003, 0.001, 5.0)))


def run(errors, as_published: bool = False) -> np.ndarray:
    pid, found = initial_pid(), []
    for error in errors:
        pid = pid_step(GAINS, pid, jnp.float32(error), as_published)
        found.append(float(pid.multiplier))
    return np.array(found)


@pytest.mark.parametrize(
    ("limit", "steps", "expected"),
    [(10, 1000, 1.0), (10, 500, 1.987), (20, 1000, 2.0), (80, 1000, 8.0), (3, 1, 3.0)],
)
def test_value_limit_by_hand(limit, steps, expected):
    found = value_limit(jnp.float32(limit), steps, jnp.float32(0.99))
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_value_limit_is_the_cost_limit_when_nothing_is_discounted():
    found = value_limit(jnp.float32(10.0), 100, jnp.float32(1 - 1e-6))
    assert float(found) == pytest.approx(10.0, rel=1e-3)


def test_multiplier_of_a_constant_error_in_closed_form():
    # t errors of 1: kp + ki t, and kd in the first step alone.
    steps = np.arange(1, 9)
    free = 0.1 + 0.003 * steps + 0.001 * (steps == 1)
    np.testing.assert_allclose(run([1.0] * 8, as_published=True), free, rtol=1e-5)
    capped = 0.1 + 0.003 * np.minimum(steps, 5) + 0.001 * (steps == 1)
    np.testing.assert_allclose(run([1.0] * 8), capped, rtol=1e-5)


def test_without_a_cap_a_constant_error_of_one_gives_three_after_a_thousand_steps():
    @jax.jit
    def long(pid):
        step = lambda pid, _: (pid_step(GAINS, pid, jnp.float32(1.0), True), None)  # noqa: E731
        return jax.lax.scan(step, pid, None, length=1000)[0]

    assert float(long(initial_pid()).multiplier) == pytest.approx(3.1, rel=1e-3)


def test_multiplier_stays_zero_below_the_limit_and_counts_no_negative_errors():
    np.testing.assert_array_equal(run([-1.0, -2.0, -0.5]), 0.0)
    # Published, errors that rise below 0 count: 0.001 (2 - 0.5).
    np.testing.assert_allclose(
        run([-1.0, -2.0, -0.5], as_published=True), [0, 0, 0.0015], rtol=1e-5
    )
    # I: 0, 2, 1, then 0 and not -1.
    np.testing.assert_allclose(
        run([-1.0, 2.0, -1.0, -2.0, 1.0]),
        [0.0, 0.2 + 0.006 + 0.002, 0.003, 0.0, 0.1 + 0.003 + 0.001],
        rtol=1e-5,
    )


def test_the_cap_shortens_the_way_back():
    errors = [1.0] * 50 + [-1.0] * 5
    assert run(errors)[-1] == 0.0 and run(errors, as_published=True)[-1] > 0.1


def test_no_gradient_passes_the_multiplier():
    gradient = jax.grad(lambda e: pid_step(GAINS, initial_pid(), e, False).multiplier)
    assert float(gradient(jnp.float32(2.0))) == 0.0


def test_values_take_the_worst_head():
    q = Known(lambda o, a: jnp.array([1.0, -2.0, 3.0, 0.0]) + a)
    qc = Known(lambda o, a: jnp.array([1.0, 2.0, 7.0, 0.0]) + a)
    params = {"q": None, "qc": None}
    given = (params, jnp.zeros(3), jnp.array([[0.0], [1.0]]))
    for as_published, cost in ((False, 7.0), (True, 0.0)):
        found = lagrangian_critics.values(q, qc, *given, as_published)  # pyright: ignore
        np.testing.assert_array_equal(found[0], [-2.0, -1.0])
        np.testing.assert_array_equal(found[1], [cost, cost + 1.0])


# Two candidates: groups' smaller heads are (1, 3) and (2, 2), larger ones (2, 4) and (2, 2).
Q_HEADS = jnp.array([[[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0]]])
QC_HEADS = jnp.array([[[5.0, 6.0, 8.0, 7.0], [0.0, 1.0, 0.0, 2.0]]])


def next_values(multiplier: float, as_published: bool):
    found = lagrangian_critics.next_values(
        Q_HEADS, QC_HEADS, jnp.float32(multiplier), jnp.float32(0.75), as_published
    )
    return [float(x[0]) for x in found]


def test_next_values_by_hand():
    # Q: 0.75 * 1 + 0.25 * 3 = 1.5, and 2. Published costs: 0.75 * 5 + 0.25 * 7 = 5.5, and 0.
    assert next_values(0.0, True) == [2.0, 5.5]
    # Ours: the larger groups 6 and 8 give 7.5, and 1 and 2 give 1.75; the second one is chosen.
    assert next_values(0.0, False) == [2.0, 1.75]


def test_the_backed_up_candidate_is_the_one_that_the_policy_would_choose():
    cheap = QC_HEADS.at[:, 1].set(9.0)
    for multiplier, expected in ((0.0, [2.0, 9.0]), (1.0, [1.5, 7.5])):
        found = lagrangian_critics.next_values(
            Q_HEADS, cheap, jnp.float32(multiplier), jnp.float32(0.75), False
        )
        assert [float(x[0]) for x in found] == expected


def test_targets_by_hand_and_what_a_termination_stops():
    zeros = jnp.zeros((2, 3))
    batch = make_rows(zeros, zeros, [10.0, 10.0], [1.0, 1.0], discount=jnp.array([1.0, 0.0]))
    values, half = (jnp.array([4.0, 4.0]), jnp.array([6.0, 6.0])), jnp.float32(0.5)
    q, qc = temporal_difference.td_targets(batch, *values, half, jnp.float32(0.1), False)
    np.testing.assert_allclose(q, [1.0 + 2.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(qc, [1.0 + 3.0, 1.0], rtol=1e-6)
    q, qc = temporal_difference.td_targets(batch, *values, half, jnp.float32(0.1), True)
    np.testing.assert_allclose(q, [3.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(qc, [4.0, 4.0], rtol=1e-6)


def test_published_reward_backups_end_at_time_limits_by_hand():
    """The second row is the last of its episode, at the time limit; so is an imagined one."""
    zeros, none = jnp.zeros((3, 3)), jnp.zeros(3)
    batch = make_rows(zeros, zeros, none, none, imagined=jnp.array([False, False, True]))
    steps = batch.n_step
    batch = batch._replace(n_step=steps._replace(valid=steps.valid.at[1:, 1].set(False)))
    values, half = (jnp.full(3, 4.0), jnp.full(3, 6.0)), jnp.float32(0.5)
    for published, expected in ((False, [2.0, 2.0, 2.0]), (True, [2.0, 0.0, 2.0])):
        q, qc = temporal_difference.td_targets(batch, *values, half, half, published)
        np.testing.assert_allclose(q, expected)
        np.testing.assert_allclose(qc, 3.0)


@pytest.mark.parametrize("name", ["bcq_lag", "bear_lag", "cpq"])
def test_published_time_limits_need_windows_of_two_steps(name):
    for n_step, published in ((2, True), (1, False)):
        config = small_config(name, as_published=published)
        make_algorithm(name, replaced(config, {"train.n_step": n_step}), TASK)
    config = replaced(small_config(name, as_published=True), {"train.n_step": 1})
    with pytest.raises(ValueError, match=rf"{name}\.as_published: found .*n_step=1"):
        make_algorithm(name, config, TASK)


def test_no_gradient_passes_targets():
    zeros = jnp.zeros((1, 3))
    batch, one = make_rows(zeros, zeros, [1.0], [1.0]), jnp.float32(0.5)

    def total(q, qc):
        return sum(
            jnp.sum(x) for x in temporal_difference.td_targets(batch, q, qc, one, one, False)
        )

    for found in jax.grad(total, argnums=(0, 1))(jnp.ones(1), jnp.ones(1)):
        np.testing.assert_array_equal(found, 0.0)


def test_td_loss_by_hand():
    net = Known(lambda o, a: jnp.array([[0.0, 1.0, 2.0, 3.0], [9.0, 9.0, 9.0, 9.0]]))
    zeros = jnp.zeros((2, 3))
    batch = make_rows(zeros, zeros, [0.0, 0.0], [0.0, 0.0])
    given = (None, batch, jnp.ones(2), jnp.array([1.0, 0.0]))
    loss, metrics = temporal_difference.td_loss(net, *given, "x/q")  # pyright: ignore
    assert float(loss) == 1.0 + 0.0 + 1.0 + 4.0
    assert {name: float(v) for name, v in metrics.items()} == {"x/q_loss": 6.0, "x/q": 1.5}


def test_weighted_mean_by_hand():
    values = jnp.array([1.0, 5.0, 100.0])
    assert float(weighted_mean(values, jnp.array([3.0, 1.0, 0.0]))) == 2.0
    assert float(weighted_mean(values, jnp.zeros(3))) == 0.0
    with pytest.raises(AssertionError):
        weighted_mean(values, jnp.ones(2))


def test_a_gradient_step_is_one_step_of_adam():
    import optax

    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.float32(3.0)}

    def loss(p):
        value = jnp.sum(jnp.square(p["a"])) + 0.0 * p["b"]
        return value, {"loss": value}

    adam = optax.scale_by_adam().init(params)
    new, adam, beside = gradient_step(loss, params, adam, jnp.float32(0.1))
    # Adam's first step has the length of the rate, against the gradient's sign.
    np.testing.assert_allclose(new["a"], [0.9, -1.9], rtol=1e-5)
    assert float(new["b"]) == 3.0 and float(beside["loss"]) == 5.0 and int(adam.count) == 1
