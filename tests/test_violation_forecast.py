"""The violation forecast counts violations of shielded policies in the learned model."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import FLAT_TASK, SPEC, TASK, tiny_config
from deployment_toys import POLICIES, deployed_program, guard_of, toy_deployed, toy_obs

from proco_jax.config.schema import ANY_REWARD, RULES_ALONE
from proco_jax.deployment import violation_forecast as forecast
from proco_jax.deployment.acting import Deployed
from proco_jax.deployment.calibration import (
    ROUNDS,
    THRESHOLDS,
    choose,
    forecast_table,
    least_reward,
    planner_margin,
    within,
)
from proco_jax.deployment.shield import Judge
from proco_jax.deployment.violation_forecast import (
    clustered_interval,
    clustered_share,
    episode_interval,
    episode_share,
    expected_steps,
)
from proco_jax.rules.rule import parse_rule
from proco_jax.training.loop import Program
from proco_jax.types import TaskSpec

STARTS, HORIZON = 3, 5


@pytest.fixture(scope="module")
def policies() -> tuple[Program, Deployed]:
    """Policies in a model whose states change little: random networks of full size diverge."""
    return small_model("proco")


@pytest.fixture(scope="module")
def counted(policies: tuple[Program, Deployed]) -> Any:
    """Compiled: whether all states are unsafe, limit of disagreement, settling steps, policies, and
    whether all states end their episode, to violating trajectories, those that ended (if any state
    ends its episode), and steps of each policy."""
    program, usual = policies
    compiled = {settle: compile_counts(program, settle) for settle in (0, 2)}

    def run(
        unsafe: bool,
        limit: float,
        settle: int = 0,
        deployed: Deployed = usual,
        ending: bool = False,
    ) -> Any:
        return compiled[settle](unsafe, limit, deployed, ending)

    return run


def small_model(algorithm: str, task: TaskSpec = FLAT_TASK) -> tuple[Program, Deployed]:
    # What is counted does not depend on rings, and without them programs compile fast.
    program = deployed_program(algorithm, task=task)
    deployed = toy_deployed(program)
    params = jax.tree.map(lambda x: 0.1 * x, guard_of(deployed).dynamics.params)
    return program, with_model(deployed, params=params)


def with_model(deployed: Deployed, **changes: Any) -> Deployed:
    model = guard_of(deployed).dynamics._replace(**changes)
    return deployed._replace(shield=guard_of(deployed)._replace(dynamics=model))


def compile_counts(program: Program, settle: int = 0) -> Any:
    def everywhere(value: jax.Array) -> Any:
        def of(obs: jax.Array) -> jax.Array:
            assert obs.shape[-1] == SPEC.size
            return jnp.broadcast_to(value, obs.shape[:-1])

        return of

    @jax.jit
    def run(deployed: Deployed, unsafe: jax.Array, ending: jax.Array) -> forecast.Counts:
        return forecast.count_violations(
            program,
            deployed,
            everywhere(unsafe),
            toy_obs(STARTS),
            HORIZON,
            settle,
            jax.random.key(0),
            everywhere(ending),
        )

    def counts(
        unsafe: bool, limit: float, deployed: Deployed, ending: bool = False
    ) -> tuple[list[int], ...]:
        model = with_model(deployed, limit=jnp.float32(limit))
        found = run(model, jnp.asarray(unsafe), jnp.asarray(ending))
        violating, ended, steps = (x.sum(axis=1).tolist() for x in found)
        return (violating, ended, steps) if ending else (violating, steps)

    return counts


def test_trajectories_without_a_violation_count_all_their_steps(counted):
    assert counted(False, np.inf) == ([0] * POLICIES, [STARTS * HORIZON] * POLICIES)


def test_a_violation_ends_a_trajectory_and_counts_once(counted):
    assert counted(True, np.inf) == ([STARTS] * POLICIES, [STARTS] * POLICIES)


def test_the_end_of_an_episode_ends_a_trajectory_without_a_violation(counted):
    each, none = [STARTS] * POLICIES, [0] * POLICIES
    assert counted(False, np.inf, ending=True) == (none, each, each)
    # A violation in the last state counts as one.
    assert counted(True, np.inf, ending=True) == (each, none, each)


def test_steps_on_which_the_elites_disagree_do_not_count(counted):
    assert counted(True, -1.0) == ([0] * POLICIES, [0] * POLICIES)


@pytest.mark.slow
def test_the_first_steps_do_not_count(counted):
    rest = [STARTS * (HORIZON - 2)] * POLICIES
    assert counted(False, np.inf, 2) == ([0] * POLICIES, rest)
    # Trajectories that violated before have nothing left to count.
    assert counted(True, np.inf, 2) == ([0] * POLICIES, [0] * POLICIES)


def test_a_diverged_model_ends_trajectories_without_a_violation(counted, policies):
    deployed = policies[1]
    params = jax.tree.map(lambda x: jnp.full_like(x, np.nan), guard_of(deployed).dynamics.params)
    broken = with_model(deployed, params=params)
    assert counted(True, np.inf, 0, broken) == ([0] * POLICIES, [0] * POLICIES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "task"),
    [("deployment_toys:make_unsampled", FLAT_TASK), ("deployment_toys:make_remembering", TASK)],
)
def test_policies_of_every_algorithm_can_be_forecast(algorithm, task):
    """Also in observations with rings, of which an imagined state knows more than they show."""
    program, deployed = small_model(algorithm, task)
    found = compile_counts(program)(False, np.inf, deployed)
    assert found == ([0] * POLICIES, [STARTS * HORIZON] * POLICIES)


def row(threshold: float, high: float | None) -> dict[str, Any]:
    """A row of a table whose point is always 0: only the upper end may decide."""
    return {
        "qh_threshold": threshold,
        "planner_threshold": threshold,
        "violating_episodes": 0.0 if high is not None else None,
        "interval_low": 0.0 if high is not None else None,
        "interval_high": high,
    }


def test_the_largest_thresholds_within_the_target_are_chosen():
    rows = [row(4, 0.2), row(2, 0.01), row(0, 0.0), row(6, 0.5), row(8, 0.1)]
    chosen = [choose(rows, target)["qh_threshold"] for target in (0.005, 0.1, 0.2, 0.6)]
    # Beyond thresholds that are not within the target, none is tried.
    assert chosen == [0, 2, 4, 8]


def test_a_target_of_zero_keeps_the_thresholds_of_the_config():
    assert choose([row(6, 0.9), row(2, 0.0)], 0.0)["qh_threshold"] == 6


@pytest.mark.parametrize("high", [0.3, None])
def test_where_no_thresholds_are_within_the_target_the_smallest_are_chosen(high):
    chosen = choose([row(4, 0.4), row(2, high)], 0.2)
    assert chosen["qh_threshold"] == 2 and not within(chosen, 0.2)


def test_episodes_that_end_early_have_their_mean_length():
    assert expected_steps(0, 100, 1000) == 1000.0
    # Half of the steps end it: 1 + 1/2 + 1/4 ... is 2 in discrete time; the limit is not reached.
    assert expected_steps(50, 100, 1000) == pytest.approx(2.0)
    # One in a thousand steps: 1 - 1/e of the limit.
    assert expected_steps(1, 1000, 1000) == pytest.approx(1000 * (1 - math.exp(-1)))


def test_the_share_of_episodes_is_that_of_independent_steps():
    assert episode_share(0, 10, 1000) == 0.0
    # One in a thousand steps: e^-1 of the episodes of a thousand have no violation.
    assert episode_share(2, 2000, 1000) == pytest.approx(1 - np.exp(-1))
    assert episode_share(0, 0, 1000) is None


def test_without_a_violation_the_upper_limit_is_three_in_all_steps():
    """Poisson: e^-m = 0.05 at m = 2.9957, the rule of three."""
    low, high = episode_interval(0, 10_000, 1000)
    assert low == 0.0
    assert high == pytest.approx(1 - math.exp(-1000 * -math.log(0.05) / 10_000), rel=1e-9)
    assert high == pytest.approx(1 - math.exp(-1000 * 3 / 10_000), rel=2e-3)
    assert episode_interval(0, 0, 1000) == (None, None)


@pytest.mark.parametrize("violating", [1, 2, 5, 30])
def test_the_limits_are_the_exact_ones_of_a_poisson_process(violating):
    """At the lower limit, so many or more are seen with probability 0.05; at the upper, or fewer.

    Both sums are made term by term, without chi-squared quantiles.
    """
    steps, episode_steps = 50_000, 100

    def at_most(k: int, mean: float) -> float:
        return sum(math.exp(-mean) * mean**i / math.factorial(i) for i in range(k + 1))

    def mean_of(share: float | None) -> float:
        assert share is not None
        return -math.log(1 - share) * steps / episode_steps

    low, high = episode_interval(violating, steps, episode_steps)
    assert 1 - at_most(violating - 1, mean_of(low)) == pytest.approx(0.05, rel=1e-6)
    assert at_most(violating, mean_of(high)) == pytest.approx(0.05, rel=1e-6)


def test_known_quantiles_of_chi_squared_give_the_interval_of_one_violation():
    """Tables: the 5% quantile with 2 degrees of freedom is 0.1026, the 95% with 4 is 9.4877."""
    low, high = episode_interval(1, 1000, 1)
    assert low == pytest.approx(0.1026 / 2 / 1000, rel=1e-3)
    assert high == pytest.approx(9.4877 / 2 / 1000, rel=3e-3)


@pytest.mark.parametrize("violating", [0, 1, 3, 40])
@pytest.mark.parametrize("steps", [40, 1000, 10**6])
def test_the_interval_contains_the_point(violating, steps):
    low, high = episode_interval(violating, steps, 250)
    point = episode_share(violating, steps, 250)
    assert low is not None and high is not None and point is not None
    assert 0.0 <= low <= point <= high <= 1.0
    # More steps without further violations narrow it from above.
    more = episode_interval(violating, 2 * steps, 250)[1]
    assert more is not None and more <= high


def counts_of(shape: float, rate: float, episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Violations in 3,000 steps of each episode, whose rates are gamma distributed."""
    rng = np.random.default_rng(seed)
    steps = np.full(episodes, 3000)
    return rng.poisson(steps * rng.gamma(shape, rate / shape, episodes)), steps


def test_equal_counts_of_all_episodes_give_the_share_of_a_single_rate():
    violating, steps = np.full(8, 2), np.full(8, 3000)
    assert clustered_share(violating, steps, 1000) == episode_share(16, 24_000, 1000)


def test_the_share_of_gamma_distributed_rates_is_found():
    """A mean of 1 in 1,000 steps and a shape of 0.5: 1 - 3^-0.5 of the episodes violate."""
    violating, steps = counts_of(0.5, 1e-3, 20_000, 0)
    found = clustered_share(violating, steps, 1000)
    assert found == pytest.approx(1 - 3**-0.5, abs=0.01)
    single = episode_share(int(violating.sum()), int(steps.sum()), 1000)
    assert single == pytest.approx(1 - np.exp(-1), abs=0.02)


def test_the_interval_covers_the_truth_as_often_as_it_says_and_that_of_one_rate_does_not():
    truth, covered = 1 - 3**-0.5, np.zeros(2)
    for seed in range(60):
        violating, steps = counts_of(0.5, 1e-3, 15, seed)
        intervals = (
            clustered_interval(violating, steps, 1000),
            episode_interval(int(violating.sum()), int(steps.sum()), 1000),
        )
        covered += [low <= truth <= high for low, high in intervals]  # pyright: ignore
    # 90% is said: 54, within two standard deviations.
    assert covered[0] >= 49 and covered[1] < 30


@pytest.mark.parametrize("violating", [[0, 0, 0], [1, 0, 0], [3, 4, 5], [40, 0, 0], [50, 60, 40]])
def test_the_interval_over_episodes_contains_the_point(violating):
    steps = np.array([3000, 2000, 1000])
    low, high = clustered_interval(np.array(violating), steps, 1000)
    point = clustered_share(np.array(violating), steps, 1000)
    assert low is not None and high is not None and point is not None
    assert 0.0 <= low <= point <= high <= 1.0
    if not any(violating):
        assert (low, high) == episode_interval(0, 6000, 1000)


def test_without_steps_nothing_is_forecast():
    none = np.zeros(3, int)
    assert clustered_share(none, none, 1000) is None
    assert clustered_interval(none, none, 1000) == (None, None)


def test_the_table_counts_by_held_out_episode_and_with_the_mean_length(policies, monkeypatch):
    """Starts from the first of two episodes violate, those from the second end early."""
    program, deployed = policies
    program = program._replace(task=program.task._replace(episode_steps=1000))
    count = 50

    def counted(program, policy, unsafe, start, horizon, settle, key, ends, events):
        first = start[..., 0] == 0
        return forecast.Counts(first * 1, ~first * 1, jnp.full(first.shape, 100))

    monkeypatch.setattr("proco_jax.deployment.calibration.count_violations", counted)
    obs = np.zeros((4, program.task.observation.size), np.float32)
    rows = forecast_table(program, deployed, lambda o: o[..., 0] > 0, [obs, obs + 1], count)
    row, all_steps = rows[0], 100 * count * POLICIES
    assert row["violating"] + row["ended"] == count * POLICIES and row["steps"] == all_steps
    length = expected_steps(row["ended"], all_steps, 1000)
    by_episode = np.array([row["violating"], 0]), np.array([row["violating"], row["ended"]]) * 100
    assert length < 1000
    assert row["violating_episodes"] == pytest.approx(clustered_share(*by_episode, length))
    interval = row["interval_low"], row["interval_high"]
    assert interval == pytest.approx(clustered_interval(*by_episode, length))


@pytest.mark.slow
def test_the_table_begins_with_the_configs_threshold(policies):
    program, deployed = policies
    shield = dataclasses.replace(
        tiny_config().shield, planner_threshold=6.0, target_violation_rate=0.15
    )
    config = dataclasses.replace(program.config, shield=shield)
    program = program._replace(config=config, task=program.task._replace(episode_steps=5))
    obs = np.asarray(toy_obs(7))[0]
    episodes = [obs[:3], obs[3:]]
    rows = forecast_table(program, deployed, lambda o: o[..., 0] > 1e9, episodes, 40)
    thresholds = [row["planner_threshold"] for row in rows]
    # Nothing violates, so the largest thresholds are within the target.
    assert [row["planner_threshold"] for row in rows if row["deployed"]] == [8.0]
    assert all(row["interval_high"] > row["violating_episodes"] == 0.0 for row in rows)
    assert thresholds == [6.0, *THRESHOLDS]
    assert all(row["violating"] == 0 and row["trajectories"] == 40 * POLICIES for row in rows)
    # Of an episode of 5 steps, the first fifth does not count.
    steps = 40 * POLICIES * 4
    assert all(row["steps"] == steps for row in rows)
    high = 1 - math.exp(-5 * -math.log(0.05) / steps)
    assert rows[0]["interval_high"] == pytest.approx(high, rel=1e-9)
    # A point of 0 is no reason for larger thresholds while the upper end exceeds the target.
    assert high > 0.01
    assert choose(rows, 0.01)["planner_threshold"] == 4.0


def test_the_rules_alone_are_chosen_by_the_point_and_thresholds_by_the_upper_end():
    rules = row(RULES_ALONE, 0.4) | {"violating_episodes": 0.1}
    rows = [rules, row(4, 0.05), row(2, 0.01)]
    assert choose(rows, 0.15) is rules
    assert choose(rows, 0.06) is rows[1]
    assert choose([rules | {"violating_episodes": None}, *rows[1:]], 0.15) is rows[1]
    # So few imagined steps that most episodes might violate are no evidence.
    assert choose([rules | {"interval_high": 0.6}, *rows[1:]], 0.15) is rows[1]
    # Without any other row within the target, the smallest threshold and not the rules.
    assert choose([rules, row(2, 0.9)], 0.05)["planner_threshold"] == 2


def forecast_thresholds(
    policies: Any, monkeypatch: Any, target: float, own: float, bad: float, ruled: bool = False
) -> tuple[list[float], list[float]]:
    """The thresholds of a table if those from `bad` on violate always; the deployed one."""
    program, deployed = policies
    if ruled:
        judge = Judge((parse_rule("nearest(hazards) <= 0.2 m", SPEC),), 0.05)
        deployed = deployed._replace(shield=guard_of(deployed)._replace(judge=judge))
    shield = dataclasses.replace(
        tiny_config().shield, planner_threshold=own, target_violation_rate=target
    )
    program = program._replace(
        config=dataclasses.replace(program.config, shield=shield),
        task=program.task._replace(episode_steps=20),
    )

    def counted(program, policy, unsafe, start, *rest):
        shape = start.shape[:2]
        violates = jnp.int32(policy.shield.planner_threshold >= bad)
        return forecast.Counts(
            jnp.full(shape, violates), jnp.zeros(shape, int), jnp.full(shape, 100)
        )

    monkeypatch.setattr("proco_jax.deployment.calibration.count_violations", counted)
    obs = np.asarray(toy_obs(7))[0]
    rows = forecast_table(program, deployed, lambda o: o[..., 0] > 0, [obs[:3], obs[3:]], 40)
    assert {row["qh_threshold"] for row in rows} == {shield.qh_threshold}
    chosen = [row["planner_threshold"] for row in rows if row["deployed"]]
    return [row["planner_threshold"] for row in rows], chosen


@pytest.mark.parametrize(
    ("target", "own", "bad", "expected", "deployed"),
    [
        (0.05, 2.0, np.inf, [2.0, 4.0, 8.0], 8.0),
        (0.05, 2.0, 1.0, [2.0], 2.0),
        (0.05, 2.0, 4.0, [2.0, 4.0], 2.0),
        (0.05, 2.0, 8.0, [2.0, 4.0, 8.0], 4.0),
        (0.05, 6.0, 5.0, [6.0, 4.0], 4.0),
        (0.05, 4.0, np.inf, [4.0, 8.0], 8.0),
        (0.05, 12.0, 1.0, [12.0, 4.0], 4.0),
        (0.0, 2.0, np.inf, [2.0], 2.0),
    ],
)
def test_thresholds_beyond_the_target_are_not_forecast(
    policies, monkeypatch, target, own, bad, expected, deployed
):
    found = forecast_thresholds(policies, monkeypatch, target, own, bad)
    assert found == (expected, [deployed])


@pytest.mark.parametrize(
    ("target", "bad", "expected", "deployed"),
    [
        (0.05, np.inf, [RULES_ALONE], RULES_ALONE),
        (0.05, 1e8, [RULES_ALONE, 2.0, 4.0, 8.0], 8.0),
        (0.05, 4.0, [RULES_ALONE, 2.0, 4.0], 2.0),
        (0.0, np.inf, [2.0], 2.0),
    ],
)
def test_with_rules_no_threshold_is_forecast_if_they_suffice(
    policies, monkeypatch, target, bad, expected, deployed
):
    found = forecast_thresholds(policies, monkeypatch, target, 2.0, bad, ruled=True)
    assert found == (expected, [deployed])


@pytest.mark.parametrize(
    ("steps", "violate", "rounds", "deployed"),
    [
        # Upper ends of 1 - 0.05^(1000 / steps): 26%, then 59% and 36%, then 79% in the last round.
        (10_000, False, 1, RULES_ALONE),
        (3_360, False, 2, RULES_ALONE),
        (480, False, ROUNDS, 2.0),
        (0, False, ROUNDS, 2.0),
        # A share beyond the target needs no more of them.
        (3_360, True, 1, 2.0),
    ],
)
def test_more_starts_are_drawn_where_few_steps_say_that_the_rules_suffice(
    policies, monkeypatch, steps, violate, rounds, deployed
):
    program, state = policies
    judge = Judge((parse_rule("nearest(hazards) <= 0.2 m", SPEC),), 0.05)
    state = state._replace(shield=guard_of(state)._replace(judge=judge))
    shield = dataclasses.replace(tiny_config().shield, target_violation_rate=0.15)
    program = program._replace(
        config=dataclasses.replace(program.config, shield=shield),
        task=program.task._replace(episode_steps=1000),
    )
    count, seen = 40, []

    def counted(program, policy, unsafe, start, horizon, settle, key, *rest):
        threshold = policy.shield.planner_threshold
        drawn = (threshold, start[..., 0], jax.random.key_data(key))
        jax.debug.callback(lambda *x: seen.append(jax.tree.map(np.asarray, x)), *drawn)
        each = steps / (POLICIES * count)
        assert each == int(each)
        shape = start.shape[:2]
        return forecast.Counts(
            jnp.full(shape, int(violate)), jnp.zeros(shape, int), jnp.full(shape, int(each))
        )

    monkeypatch.setattr("proco_jax.deployment.calibration.count_violations", counted)
    obs = np.asarray(toy_obs(200))[0]
    rows = forecast_table(program, state, lambda o: o[..., 0] > 0, [obs[:100], obs[100:]], count)
    jax.effects_barrier()
    assert rows[0]["planner_threshold"] == RULES_ALONE
    assert rows[0]["trajectories"] == rounds * count * POLICIES
    assert rows[0]["steps"] == rounds * steps
    assert rows[0]["violating"] == (rounds * count * POLICIES if violate else 0)
    assert [row["planner_threshold"] for row in rows if row["deployed"]] == [deployed]
    # Every round has starts and keys of its own; other thresholds have those of the first.
    ruled = [x for x in seen if x[0] == RULES_ALONE]
    assert len(ruled) == rounds
    for which in (1, 2):
        drawn = [x[which].tobytes() for x in ruled]
        assert len(set(drawn)) == rounds
        assert all(x[which].tobytes() == drawn[0] for x in seen if x[0] != RULES_ALONE)


def test_the_planners_margin_covers_the_share_of_errors_that_it_is_asked_for():
    excess = np.random.default_rng(0).permutation(np.arange(1, 100)) / 100.0
    for coverage in (0.5, 0.9, 0.95):
        found = planner_margin([excess], coverage, 0.0, 1.0, 1.0)
        # Of 99 errors and a new one, in any order.
        assert np.sum(excess <= found) + 1 >= coverage * 100
        assert found == pytest.approx(coverage)


def test_the_planners_margin_is_between_its_least_and_its_most():
    for excess, wanted in (
        (-0.3, 0.01),
        (0.0, 0.01),
        (0.03, 0.03),
        (0.08, 0.08),
        (0.3, 0.1),
        (np.inf, 0.1),
    ):
        found = planner_margin([np.full(100, excess)], 0.95, 0.01, 0.05, 0.1)
        assert found == pytest.approx(wanted)
    # Too few errors to tell, or a share that no number of them covers.
    for count, coverage, wanted in ((18, 0.95, 0.05), (19, 0.95, 0.01), (0, 0.5, 0.05)):
        assert planner_margin([np.zeros(count)], coverage, 0.01, 0.05, 0.1) == wanted
    assert planner_margin([np.zeros(100)], 1.0, 0.01, 0.05, 0.1) == 0.1
    for coverage in (0.0, 1e-30, 1e-12):
        assert planner_margin([np.arange(100) - 50.0], coverage, 0.01, 0.05, 0.1) == 0.01


def test_the_planners_margin_is_the_largest_that_a_set_of_logs_asks_for():
    for few, many, wanted in (
        (np.full(50, 0.02), np.full(500, 0.07), 0.07),
        (np.full(50, 0.07), np.full(500, 0.02), 0.07),
        # Ten errors do not tell, which counts as the margin of the labels.
        (np.full(10, 0.02), np.full(500, 0.02), 0.05),
        (np.full(10, 0.02), np.full(500, 0.07), 0.07),
    ):
        assert planner_margin([few, many], 0.95, 0.01, 0.05, 0.1) == pytest.approx(wanted)


def test_the_least_reward_is_a_quantile_of_sums_of_usual_rewards():
    # Clipped: 0, -1, 0, -0.5 and -1, -1, 1; an episode of one step has no sum of two.
    rewards = [np.array([0.0, -9.0, 0.0, -0.5]), np.array([-5.0, -1.0, 1.5]), np.array([-1.0])]
    sums = [-1.0, -1.0, -0.5, -2.0, 0.0]
    for quantile in (0.1, 0.5, 0.9):
        found = least_reward(rewards, (-1.0, 1.0), 2, quantile)
        wanted = np.quantile(sums, quantile)
        assert wanted - 0.005 < found < wanted < 0.0
    # Where the logs earn something, nothing more is asked for.
    positive = [-each for each in rewards]
    assert -0.005 < least_reward(positive, (-1.0, 1.0), 2, 0.9) < 0.0
    # A prediction in float32 reaches the sum of constant rewards.
    for value, horizon in ((-0.1, 25), (-0.7, 25), (-0.3, 6), (-1.1, 6), (0.0, 6)):
        found = least_reward([np.full(100, value)], (-2.0, 2.0), horizon, 0.5)
        total = np.float32(0)
        for _ in range(horizon):
            total += np.float32(value)
        assert found < total
    assert least_reward(rewards, (0.0, 1.0), 2, 0.0) == ANY_REWARD
    assert least_reward(rewards, (0.0, 1.0), 5, 0.5) == ANY_REWARD


def test_margins_that_hold_for_most_errors_hold_for_most_new_ones():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        errors = rng.normal(size=41)
        covered.append(errors[-1] <= planner_margin([errors[:-1]], 0.8, -10.0, 10.0, 10.0))
    assert np.mean(covered) == pytest.approx(0.8, abs=3 * np.sqrt(0.8 * 0.2 / 400) + 1 / 41)
