"""Evaluation without a simulator: hand-worked reports, and the model on logs that it knows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import SPEC, toy_dataset, toy_model, toy_normalizer
from deployment_toys import POLICIES, deployed_program, guard_of, toy_deployed, toy_obs

from proco_jax.deployment.violation_forecast import episode_interval, episode_share
from proco_jax.evaluation.offline import (
    NOTHING_HELD_OUT,
    ImaginedEpisodes,
    forecast_margins,
    imagine_episodes,
    model_report,
    policy_report,
)
from proco_jax.models import dynamics, object_map
from proco_jax.report import markdown
from proco_jax.training.loop import Program
from proco_jax.types import Episode


def drawn_episodes(*lengths: int) -> list[Episode]:
    """Random episodes without reward and cost."""
    rng = np.random.default_rng(0)
    return [
        Episode(
            rng.random((steps + 1, SPEC.size)).astype(np.float32),
            rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            np.zeros(steps, np.float32),
            np.zeros(steps, np.float32),
            False,
        )
        for steps in lengths
    ]


def toy_world() -> tuple[Program, dynamics.Model]:
    """The program of a policy, and a model of the toy logs."""
    program, data = deployed_program("bc"), toy_dataset(4)
    return program, toy_model(program.config, data, toy_normalizer(data))


def compiled_step(program: Program, model: dynamics.Model) -> Callable[..., jax.Array]:
    """A state and an action to the next state."""
    return jax.jit(
        lambda state, action: (
            dynamics.predict_mean(program.dynamics, model, state, action).next_state
        )
    )


def imagined() -> ImaginedEpisodes:
    """Two seeds, two episodes each, of four steps: one violates at its second step, one is left."""
    margin = np.full((2, 2, 4), -2.0)
    margin[0, 0, 1:] = 0.5
    known = np.ones((2, 2, 4), bool)
    known[1, 1, 2:] = False
    reward = np.where(known, 1.0, 0.0)
    outside = np.zeros((2, SPEC.size))
    outside[0, 0], outside[1, 0], outside[1, -1] = 3, 4, 1
    return ImaginedEpisodes(reward, margin, known, outside)


def test_a_report_by_hand() -> None:
    held_out = np.full(19, -3.0), np.full(19, -2.9)
    report = policy_report(imagined(), SPEC, held_out, 4)
    assert report["episodes"] == 4 and report["known_steps"] == 14 / 16
    assert report["leaving_support"] == 0.25 and report["leaves_at_step"] == 2
    assert report["outside"] == {"velocity": 7 / 14, "battery": 1 / 14}
    # Rewards of 1 a step, also of the episode that is left early.
    assert report["return"]["mean"] == 4.0
    # Steps before the violation or the end of what is known: 2 + 4 + 4 + 2.
    assert report["violating"] == 1
    assert report["violating_episodes"] == episode_share(1, 12, 4)
    assert (report["interval_low"], report["interval_high"]) == episode_interval(1, 12, 4)
    # Raised by 0.1, one margin is above 0, and one episode is unknown.
    assert report["flagged"] == 0.5 and report["bound"] > 0.6
    # In two steps, nothing is unknown.
    assert policy_report(imagined(), SPEC, held_out, 2)["flagged"] == 0.25


def test_without_knowledge_nothing_is_said_of_violations() -> None:
    report = policy_report(imagined(), SPEC, None, 4)
    assert report["violating_episodes"] is None and report["bound"] is None
    assert report["return"]["mean"] == 4.0


@pytest.mark.slow
def test_imagined_episodes_end_where_the_elites_disagree() -> None:
    program = deployed_program("bc")
    deployed = toy_deployed(program)
    model = guard_of(deployed).dynamics
    low, high = np.zeros(SPEC.size), np.ones(SPEC.size)

    def run(limit: float) -> ImaginedEpisodes:
        return imagine_episodes(
            program,
            "none",
            deployed,
            model._replace(limit=jnp.float32(limit)),
            lambda obs: obs[..., 0] - 0.5,
            (low, high),
            np.asarray(toy_obs(3)),
            5,
            0,
        )

    free, barred = run(np.inf), run(-1.0)
    assert free.known.all() and not barred.known.any()
    assert not barred.reward.any() and not barred.outside.any()
    assert free.reward.shape == (POLICIES, 3, 5) and np.isfinite(free.margin).all()


@pytest.mark.slow
def test_margins_are_forecast_from_the_first_observation_and_the_logged_actions() -> None:
    program, model = toy_world()
    episodes = drawn_episodes(3, 6)
    forecast, logged = forecast_margins(
        program.dynamics, model, lambda obs: obs[..., 0], episodes, 4
    )
    assert logged.tolist() == [float(e.obs[1:5, 0].max()) for e in episodes]
    after = compiled_step(program, model)
    for e, found in zip(episodes, forecast, strict=True):
        state, largest = object_map.begin(SPEC, jnp.asarray(e.obs[0])), -np.inf
        for action in e.action[:4]:
            state = after(state, action)
            largest = max(largest, float(state[0]))
        assert found == pytest.approx(largest, abs=1e-4)
    names = [str(i) for i in range(SPEC.size)]
    report = model_report(program.dynamics, model, episodes, names, 4)
    assert report["held_out_episodes"] == 2
    assert [row["steps"] for row in report["stretches"]] == [1]
    assert all(0 <= share <= 1 for share in report["one_step"].values())


@pytest.mark.slow
def test_errors_of_stretches_are_those_after_so_many_steps() -> None:
    program, model = toy_world()
    episodes = drawn_episodes(8, 12)
    names = [str(i) for i in range(SPEC.size)]
    rows = model_report(program.dynamics, model, episodes, names, 10)["stretches"]
    varies = np.asarray(model.targets.varies)[: SPEC.size] > 0
    assert [row["steps"] for row in rows] == [1, 5, 10]
    begin, after = jax.jit(lambda obs: object_map.begin(SPEC, obs)), compiled_step(program, model)
    for row in rows:
        ahead, errors, changes = row["steps"], [], []
        for e in episodes:
            for t in range(len(e.reward) - ahead + 1):
                state = begin(e.obs[t])
                for action in e.action[t : t + ahead]:
                    state = after(state, action)
                guess = object_map.observation(SPEC, state)
                errors.append(np.abs(guess - e.obs[t + ahead]))
                changes.append(np.abs(e.obs[t] - e.obs[t + ahead]))
        assert row["stretches"] == len(errors)
        share = np.mean(errors, axis=0)[varies] / np.mean(changes, axis=0)[varies]
        assert row["error"] == pytest.approx(share.mean(), rel=1e-3)


@pytest.mark.slow
def test_stretches_leave_out_what_never_changes_in_held_out_episodes() -> None:
    program, model = toy_world()
    (e,) = drawn_episodes(3)
    e.obs[:, 0] = 0.5
    names = [str(i) for i in range(SPEC.size)]
    (row,) = model_report(program.dynamics, model, [e], names, 1)["stretches"]
    assert row["error"] < 100
    e.obs[:] = e.obs[0]
    assert model_report(program.dynamics, model, [e], names, 1)["stretches"] == []


def test_without_held_out_episodes_nothing_is_promised() -> None:
    program, model = toy_world()
    report = model_report(program.dynamics, model, [], [], 4)
    assert report["held_out_episodes"] == 0 and "holdout_share" in report["unknown"]
    pairs = forecast_margins(program.dynamics, model, lambda obs: obs[..., 0], [], 4)
    found = policy_report(imagined(), SPEC, pairs, 4)
    assert found["bound"] == found["flagged"] == 1.0
    assert found["violating_episodes"] == episode_share(1, 12, 4)
    logged = {"mean": 1.0, "25%": 0.5, "median": 1.0, "75%": 1.5}
    content = {"policies": {}, "logged_return": logged, "model": report, "cannot_tell": "Much."}
    assert NOTHING_HELD_OUT in markdown._offline_tables(content)
