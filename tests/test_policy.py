"""A policy that is saved and loaded acts as the trained one, or is refused with a reason."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import ACTIONS, FLAT_TASK, SPEC, TASK, same_leaves
from deployment_toys import (
    POLICIES,
    SHIELDS,
    action_keys,
    deployed_program,
    guard_of,
    toy_deployed,
    toy_obs,
    toy_previous,
)

from proco_jax.common import sharding
from proco_jax.common.checksums import sealed_json
from proco_jax.deployment.acting import Deployed, make_actor
from proco_jax.deployment.policy import load_policies, load_policy, save_policies
from proco_jax.deployment.shield import SHIELD_VERSION, Judge
from proco_jax.evaluation.episodes import Observed, Player
from proco_jax.pipeline.policies import Learner, _shared_player, make_player
from proco_jax.pipeline.workdir import Run
from proco_jax.rules.rule import parse_rule
from proco_jax.training.loop import Program
from proco_jax.types import TaskSpec

# Algorithms by the name that makes them, and by their own.
NAMES = {
    "proco": "proco",
    "toy_algorithm:make": "toy",
    "deployment_toys:make_remembering": "remembering",
}
# The planner always acts, so that its model shows in the actions.
THRESHOLDS = (0.0, -50.0)
OBS = np.asarray(toy_obs(1)[0, 0])


def task_of(maker: str) -> TaskSpec:
    """What an algorithm's policies are for. One has rings; without them programs compile fast."""
    return TASK if maker == "proco" else FLAT_TASK


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run with the policies of all `NAMES`."""
    workdir = tmp_path_factory.mktemp("run")
    for maker in NAMES:
        program = deployed_program(maker, task=task_of(maker))
        save_policies(workdir, program, maker, "proco", toy_deployed(program, THRESHOLDS))
    program = deployed_program("bc")
    bare = toy_deployed(program)._replace(shield=None)
    save_policies(workdir, program, "bc", "none", bare)
    save_policies(workdir, program, "bc", "control", without_knowledge(program))
    return workdir


def without_knowledge(program: Program) -> Deployed:
    """Policies whose shield has no cost network."""
    deployed = toy_deployed(program)
    return deployed._replace(shield=guard_of(deployed)._replace(cost=None))


@pytest.fixture(scope="module")
def policy(saved: Path) -> Any:
    """One policy without a shield."""
    return load_policy(saved, shield="none")


def expected_actions(program: Program, deployed: Deployed, shield: str) -> np.ndarray:
    """The actions `[POLICIES, A]` of all policies at an episode's start, with the key 3."""
    actor = make_actor(program, shield)

    @jax.jit
    def run(deployed: Deployed) -> jax.Array:
        obs = jnp.broadcast_to(OBS, (POLICIES, 1, SPEC.size))
        keys = jnp.broadcast_to(jax.random.key(3), (POLICIES, 1))
        carry, active = actor.initial_carry(POLICIES, 1), jnp.ones((POLICIES, 1), bool)
        return actor.act(deployed, carry, obs, toy_previous(1), keys, active)[0]

    return np.asarray(run(deployed))[:, 0]


# The planner of PROCO's policies alone is not slow: it has all that is saved.
@pytest.mark.parametrize(
    ("maker", "shield"),
    [
        *[pytest.param("proco", x, marks=pytest.mark.slow) for x in ("none", "filter")],
        ("proco", "planner"),
        *[pytest.param("toy_algorithm:make", x, marks=pytest.mark.slow) for x in SHIELDS],
    ],
)
def test_a_loaded_policy_acts_as_the_trained_one(saved, maker, shield):
    program = deployed_program(maker, task=task_of(maker))
    expected = expected_actions(program, toy_deployed(program, THRESHOLDS), shield)
    for seed in range(POLICIES):
        loaded = load_policy(saved, NAMES[maker], "proco", shield, seed)
        found = loaded(OBS, jax.random.key(3))
        np.testing.assert_allclose(found, expected[seed], rtol=1e-5, atol=1e-6)
        assert loaded.shield == shield and loaded.task == task_of(maker)
    # Policies of different seeds differ, other than in a plan that both may choose.
    assert shield == "planner" or not np.allclose(expected[0], expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("maker", NAMES)
def test_all_that_was_saved_is_loaded(saved, maker):
    program = deployed_program(maker, task=task_of(maker))
    again, deployed = load_policies(saved, NAMES[maker], "proco")
    same_leaves(deployed, toy_deployed(program, THRESHOLDS))
    assert again.config == program.config and again.task == program.task


def test_a_shield_without_a_cost_network_is_loaded(saved):
    same_leaves(load_policies(saved, "bc", "control")[1], without_knowledge(deployed_program("bc")))


def test_the_rules_of_a_shield_are_saved_and_judge_again(saved, tmp_path):
    program = deployed_program("proco")
    widening = 0.6 * program.config.cost.margin
    rules = tuple(
        parse_rule(f"nearest(hazards) <= {reach} m", SPEC) for reach in ("2.9", "2.5", "2.0")
    )
    deployed = toy_deployed(program, (0.0, 1e9))
    guard = guard_of(deployed)._replace(judge=Judge(rules, widening))
    deployed = deployed._replace(shield=guard)
    save_policies(tmp_path, program, "proco", "proco", deployed)
    again = load_policies(tmp_path, "proco", "proco")[1]
    same_leaves(again, deployed)
    assert guard_of(again).judge == Judge(rules, widening)
    # V_h is below the threshold everywhere, so that the rules alone can be what the planner reads.
    plain = load_policy(saved, shield="none")(OBS, jax.random.key(3))
    judged = load_policy(tmp_path)(OBS, jax.random.key(3))
    np.testing.assert_allclose(judged, expected_actions(program, deployed, "planner")[0], atol=1e-6)
    assert np.abs(np.asarray(judged - plain)).max() > 1e-3


@pytest.mark.parametrize("version", [None, SHIELD_VERSION - 1, SHIELD_VERSION + 1])
def test_policies_of_another_planner_are_refused(version, saved, tmp_path):
    """Their thresholds were chosen for another planner."""
    copy = tmp_path / "run"
    shutil.copytree(saved, copy)
    path = copy / "policies" / "proco-proco" / "policy.json"
    meta = json.loads(path.read_text())
    del meta["shield"]["version"], meta["sha256"]
    if version is not None:
        meta["shield"]["version"] = version
    path.write_text(sealed_json(meta))
    with pytest.raises(ValueError, match="another version, with another planner; run"):
        load_policy(copy)


def test_loading_changes_no_file(saved):
    def files() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()}

    before = files()
    load_policies(saved, "proco", "proco")
    assert files() == before


@pytest.mark.slow
def test_the_default_shield_is_the_planner_where_there_are_critics(saved):
    assert load_policy(saved).shield == "planner"
    assert load_policy(saved, "bc", "none").shield == "none"
    for shield in ("filter", "planner"):
        with pytest.raises(ValueError, match=rf"{shield}.*no feasibility critics.*'none'"):
            load_policy(saved, "bc", "none", shield)
    with pytest.raises(ValueError, match="none, filter or planner"):
        load_policy(saved, shield="planer")


def test_a_policy_without_critics_acts(saved):
    program = deployed_program("bc")
    expected = expected_actions(program, toy_deployed(program)._replace(shield=None), "none")
    found = load_policy(saved, "bc", "none")(OBS, jax.random.key(3))
    np.testing.assert_allclose(found, expected[0], rtol=1e-5, atol=1e-6)


def test_a_missing_policy_names_those_that_exist(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'cpq-none'.*bc-none, proco-proco"):
        load_policy(saved, "cpq", "none")
    with pytest.raises(FileNotFoundError, match="policies there: none"):
        load_policy(tmp_path)


@pytest.mark.parametrize("seed", [-1, POLICIES, 10**9])
def test_a_seed_that_the_run_does_not_have_is_refused(saved, seed):
    with pytest.raises(ValueError, match="2 policies"):
        load_policy(saved, shield="none", seed=seed)


@pytest.mark.parametrize("seed", [True, False, 1.0, "1", None])
def test_a_seed_that_is_no_integer_is_refused(saved, seed):
    with pytest.raises(ValueError, match=r"seed: found .*integer"):
        load_policy(saved, shield="none", seed=seed)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_an_observation_that_is_not_finite_names_its_fields(policy, bad):
    obs = OBS.astype(np.float64)
    obs[[SPEC.slices["hazards"].start, SPEC.slices["battery"].start]] = bad
    with pytest.raises(ValueError, match="observation: hazards, battery not finite"):
        policy(obs, jax.random.key(0))


@pytest.mark.parametrize("shape", [(1,), (), (SPEC.size - 1,), (59,), (1, SPEC.size)])
def test_an_observation_of_another_shape_names_the_fields(policy, shape):
    with pytest.raises(ValueError, match=r"found shape .*velocity \(3\), hazards \(8\)"):
        policy(np.zeros(shape, np.float32), jax.random.key(0))
    with pytest.raises(ValueError, match=r"found shape .*velocity \(3\), hazards \(8\)"):
        jax.jit(policy)(jnp.zeros(shape), jax.random.key(0))


@pytest.mark.parametrize("kind", [bool, complex, object, "U1", "datetime64[s]"])
def test_an_observation_that_is_no_real_number_is_refused(policy, kind):
    with pytest.raises(ValueError, match=r"observation: found type .*expected real numbers"):
        policy(np.zeros(SPEC.size, kind), jax.random.key(0))


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16, np.float16, np.float64, list])
def test_other_real_numbers_are_cast(policy, kind):
    obs = np.arange(SPEC.size) % 3
    expected = policy(obs.astype(np.float32), jax.random.key(0))
    found = policy(obs.tolist() if kind is list else obs.astype(kind), jax.random.key(0))
    np.testing.assert_array_equal(found, expected)


def test_raw_keys_are_those_of_the_same_seed(policy):
    expected = policy(OBS, jax.random.key(5))
    np.testing.assert_array_equal(policy(OBS, jax.random.PRNGKey(5)), expected)
    np.testing.assert_array_equal(policy(OBS, np.array([0, 5], np.uint32)), expected)
    assert np.any(policy(OBS, jax.random.key(6)) != expected)


@pytest.mark.parametrize(
    "key",
    [0, None, np.zeros(2, np.int32), np.zeros(3, np.uint32), np.zeros((1, 2), np.uint32), "key"],
)
def test_other_keys_are_refused(policy, key):
    with pytest.raises(ValueError, match=r"(?s)key: found .*jax\.random\.key"):
        policy(OBS, key)
    with pytest.raises(ValueError, match=r"(?s)key: found .*jax\.random\.key"):
        policy(OBS, jax.random.split(jax.random.key(0), 2))


@pytest.mark.parametrize(
    "bad",
    [
        np.full(2, np.nan),
        np.array([0.0, np.inf]),
        np.zeros(3),
        np.zeros((1, 2)),
        0.0,
        "left",
        np.zeros(2, complex),
        [None, None],
        [[0.0], [0.0, 1.0]],
    ],
    ids=str,
)
def test_a_last_action_that_is_none_is_refused(policy, bad):
    carry = policy.initial_carry()
    with pytest.raises(ValueError, match=r"^last_action: "):
        policy.act(carry, OBS, jax.random.key(0), last_action=bad)


@pytest.mark.parametrize("name", ["reward", "cost"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, "0", None, np.zeros(2), 0j, {}], ids=str)
def test_a_reward_or_cost_that_is_no_finite_number_is_refused(policy, name, bad):
    carry = policy.initial_carry()
    with pytest.raises(ValueError, match=rf"^{name}: "):
        policy.act(carry, OBS, jax.random.key(0), **{name: bad})


@pytest.mark.parametrize("zero", [0, np.float64(0), jnp.float16(0)], ids=lambda x: type(x).__name__)
def test_other_real_numbers_of_the_step_before_are_cast(policy, zero):
    carry, key = policy.initial_carry(), jax.random.key(0)
    action, _ = policy.act(carry, OBS, key, last_action=[zero, zero], reward=zero, cost=zero)
    np.testing.assert_array_equal(action, policy(OBS, key))


@pytest.mark.parametrize("bad", [None, {"obs": 1}, "text", [[0.0], [0.0, 1.0]], b"12"], ids=str)
def test_what_is_no_array_at_all_is_refused(policy, bad):
    with pytest.raises(ValueError, match=r"^observation: "):
        policy(bad, jax.random.key(0))


def test_an_action_that_is_not_finite_is_never_returned(policy):
    def overflow(deployed, carry, *rest):
        return jnp.full((1, 1, 2), jnp.nan), carry

    overflowing = dataclasses.replace(policy, _act=overflow)
    with pytest.raises(ValueError, match=r"observation: the networks' numbers overflow; .* logs"):
        overflowing(OBS, jax.random.key(0))


def test_masked_numbers_are_refused(policy):
    masked = np.ma.masked_array(OBS, np.arange(SPEC.size) == 2)
    with pytest.raises(ValueError, match="observation: found masked values"):
        policy(masked, jax.random.key(0))


def test_a_policy_can_be_compiled_into_a_larger_program(policy):
    expected = policy(OBS, jax.random.key(1))
    found = jax.jit(lambda o, k: 2.0 * policy(o, k))(OBS, jax.random.key(1))
    np.testing.assert_allclose(found, 2.0 * expected, rtol=1e-5, atol=1e-6)
    keys = jax.vmap(jax.random.key)(jnp.ones(3, jnp.int32))
    many = jax.jit(jax.vmap(policy))(jnp.stack([OBS] * 3), keys)
    np.testing.assert_allclose(many, np.stack([expected] * 3), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_memory_is_carried_through_an_episode_and_starts_anew(saved):
    policy = load_policy(saved, "remembering", shield="filter")
    first = policy(OBS, jax.random.key(0))
    carry, action, reward, cost = policy.initial_carry(), None, 0.0, 0.0
    for t in range(3):
        now, carry = policy.act(carry, OBS, jax.random.key(t), action, reward, cost)
        # The toy's first component is 0.01 per step of the episode.
        np.testing.assert_allclose(now[0], 0.01 * (t + 1), rtol=1e-6)
        assert carry.steps[0, 0] == t + 1
        last = np.zeros(ACTIONS) if action is None else action
        np.testing.assert_array_equal(carry.previous.action[0, 0], last)
        assert carry.previous.reward[0, 0] == np.float32(reward)
        assert carry.previous.cost[0, 0] == np.float32(cost)
        action, reward, cost = np.array([0.3, -0.1 * t], np.float32), 0.1 * t, 1.0
    np.testing.assert_array_equal(policy(OBS, jax.random.key(0)), first)


@pytest.mark.slow
def test_in_an_evaluation_a_memory_is_reset_where_an_episode_begins():
    play_with_a_memory()


def play_with_a_memory() -> Player:
    """Two worlds of each policy; the second begins its next episode at the third step."""
    program = deployed_program("deployment_toys:make_remembering", task=FLAT_TASK)
    deployed = sharding.for_acting(toy_deployed(program), POLICIES)
    player = make_player(program, "filter", deployed, 0)
    carry = player.initial_carry(POLICIES, 2)
    previous = np.full((POLICIES, 2), 0.5, np.float32)
    for steps, counts in (((0, 0), (1, 1)), ((1, 1), (2, 2)), ((2, 0), (3, 1)), ((3, 1), (4, 2))):
        begun = np.broadcast_to(np.array(steps, np.int32), (POLICIES, 2))
        executed = np.where(begun > 0, previous, np.float32(0))
        seeds, active = np.zeros((POLICIES, 2), np.int32), np.ones((POLICIES, 2), bool)
        action = np.repeat(executed[..., None], ACTIONS, axis=-1)
        obs = np.asarray(toy_obs(2))
        observed = Observed(obs, executed, executed, action, seeds, begun, active)
        actions, carry = player.act(carry, observed)
        np.testing.assert_array_equal(carry.steps, np.broadcast_to(counts, (POLICIES, 2)))
        np.testing.assert_array_equal(carry.previous.action, action)
        np.testing.assert_allclose(actions[..., 0], 0.01 * carry.steps, rtol=1e-6)
    return player


@pytest.mark.slow
def test_policies_of_one_algorithm_share_what_is_compiled_and_act_as_apart(tmp_path):
    program = deployed_program()
    policies = [sharding.for_acting(toy_deployed(program, seed=s), POLICIES) for s in (0, 1)]
    config = program.config
    run = Run(config, tmp_path, tmp_path, None, log=lambda line: None)  # type: ignore[arg-type]
    zeros = np.zeros((POLICIES, 2), np.int32)
    nothing = np.zeros((POLICIES, 2), np.float32)
    action, active = np.zeros((POLICIES, 2, ACTIONS), np.float32), np.ones((POLICIES, 2), bool)
    observed = Observed(np.asarray(toy_obs(2)), nothing, nothing, action, zeros, zeros, active)

    def acts(player: Player) -> np.ndarray:
        return np.asarray(player.act(player.initial_carry(POLICIES, 2), observed)[0])

    learner = Learner("proco", "proco")
    for shield in ("none", "filter"):
        found = []
        for deployed in policies:
            shared = _shared_player(run, program, learner, shield, deployed)
            found.append(acts(shared))
            alone = acts(make_player(program, shield, deployed, config.seed))
            np.testing.assert_array_equal(found[-1], alone)
        assert np.any(found[0] != found[1])
        # Interim evaluations have no state of a shield.
        if shield == "none":
            bare = policies[0]._replace(shield=None)
            shared = _shared_player(run, program, learner, shield, bare)
            np.testing.assert_array_equal(acts(shared), found[0])
        (compiled,) = [x.act for name, (_, x) in run.compiled.items() if name[1] == shield]
        assert compiled._cache_size() == 1
    # Another config is another program.
    samples = dataclasses.replace(config.shield, samples=1)
    other = deployed_program("proco", dataclasses.replace(config, shield=samples))
    changed = _shared_player(run, other, learner, "filter", policies[0])
    wanted = make_player(other, "filter", policies[0], config.seed)
    np.testing.assert_array_equal(acts(changed), acts(wanted))


def damaged_copy(saved: Path, tmp_path: Path) -> Path:
    """A copy of the run with only the policies of proco."""
    copy = tmp_path / "run"
    shutil.copytree(saved / "policies" / "proco-proco", copy / "policies" / "proco-proco")
    return copy


def test_a_flipped_byte_in_any_file_is_refused_by_name(saved, tmp_path):
    run = damaged_copy(saved, tmp_path)
    rng = np.random.default_rng(0)
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.stat().st_size)
    assert any(p.name == "policy.json" for p in files) and len(files) > 3
    for path in files:
        whole = path.read_bytes()
        for _ in range(40 if path.name == "policy.json" else 3):
            changed = bytearray(whole)
            changed[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=path.name):
                load_policy(run, shield="none")
        path.write_bytes(whole)
    assert load_policy(run, shield="none").shield == "none"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"planner_horizon": 6', '"planner_horizon": 2'),
        ('"cost_limit": 10.0', '"cost_limit": 11.0'),
        ('"seeds": 2', '"seeds": 1'),
        ("\n", "\r\n"),
        ("}\n", "}"),
    ],
)
def test_an_edited_policy_json_is_refused(saved, tmp_path, old, new):
    path = damaged_copy(saved, tmp_path) / "policies" / "proco-proco" / "policy.json"
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())
    with pytest.raises(ValueError, match=r"policy\.json differs from what was saved; remove"):
        load_policy(tmp_path / "run")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[]", b"3", b"null", b"[[[1]]]"])
def test_a_policy_json_of_another_kind_is_refused(saved, tmp_path, content):
    path = damaged_copy(saved, tmp_path) / "policies" / "proco-proco" / "policy.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"policy\.json (is damaged|lacks)"):
        load_policy(tmp_path / "run")


def test_a_missing_or_an_added_array_file_is_refused_by_name(saved, tmp_path):
    arrays = damaged_copy(saved, tmp_path) / "policies" / "proco-proco" / "arrays"
    added = arrays / "more"
    added.write_text("1")
    with pytest.raises(ValueError, match="more differs"):
        load_policy(tmp_path / "run")
    added.unlink()
    gone = max((p for p in arrays.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    gone.unlink()
    with pytest.raises(ValueError, match=gone.name):
        load_policy(tmp_path / "run")
    shutil.rmtree(arrays)
    with pytest.raises(ValueError, match="differs"):
        load_policy(tmp_path / "run")


def test_parameters_that_are_not_finite_are_refused(tmp_path):
    program = deployed_program("toy_algorithm:make")
    deployed = toy_deployed(program)
    bad = deployed._replace(algorithm=deployed.algorithm.at[1, 0, 0].set(jnp.nan))
    save_policies(tmp_path, program, "toy_algorithm:make", "proco", bad)
    with pytest.raises(ValueError, match=r"toy-proco.*not finite"):
        load_policies(tmp_path, "toy", "proco")


def test_a_policy_saved_twice_replaces_the_first(tmp_path):
    program = deployed_program("toy_algorithm:make")
    for seed in (0, 1):
        deployed = toy_deployed(program, seed=seed)
        save_policies(tmp_path, program, "toy_algorithm:make", "proco", deployed)
    same_leaves(load_policies(tmp_path, "toy", "proco")[1], toy_deployed(program, seed=1))
    # Nothing else is left behind, neither the first nor a partial one.
    assert [p.name for p in (tmp_path / "policies").iterdir()] == ["toy-proco"]


@pytest.mark.slow
def test_a_save_that_was_killed_leaves_nothing_that_is_loaded(saved, tmp_path):
    """What a kill leaves is the hidden folder that the next save replaces."""
    run = damaged_copy(saved, tmp_path)
    partial = run / "policies" / ".proco-proco"
    (run / "policies" / "proco-proco").rename(partial)
    with pytest.raises(FileNotFoundError, match="policies there: none"):
        load_policy(run)
    program = deployed_program("proco")
    save_policies(run, program, "proco", "proco", toy_deployed(program))
    assert not partial.exists()
    same_leaves(load_policies(run, "proco", "proco")[1], toy_deployed(program))


def test_the_actions_of_different_keys_differ(policy):
    keys = action_keys(3).ravel()
    actions = np.stack([policy(OBS, key) for key in keys])
    assert len(np.unique(actions, axis=0)) == len(keys)
    assert np.abs(actions).max() <= 1.0
