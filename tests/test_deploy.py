"""A policy that was kept acts as it did in training."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_toys import drawn

from proco_jax.algorithms import proco
from proco_jax.config import schema as configs
from proco_jax.config.schema import Config
from proco_jax.deployment import policy as deploy
from proco_jax.deployment import shield as acting
from proco_jax.models.normalizer import fit_scale
from proco_jax.observation import Field, ObservationSpec
from proco_jax.training import loop as train

SPEC = ObservationSpec(
    (
        Field("velocity", 3, "vector", "m/s", "How fast it moves."),
        Field("lidar", 8, "ring", "closeness in [0, 1]", "What is near.", reach=3.0),
    )
)


@pytest.fixture
def run(tmp_path):
    """A folder as a finished run leaves it, and what it holds."""
    config = Config(seeds=2)
    config.agent.hidden, config.encoder.features, config.encoder.bin_hidden = (8,), 8, (4, 4)
    config.dynamics.hidden, config.dynamics.bin_hidden = (8,), (4, 4)
    # Always, so that it shows which model is looked into.
    config.agent.escapes, config.agent.escape_above, config.agent.risk = 4, -1e9, 0.0
    parts = train.make_parts(config, SPEC, 2)
    obs = np.random.default_rng(0).random((50, SPEC.size)).astype(np.float32)
    scale = fit_scale(SPEC, obs)
    agents = jax.vmap(lambda k: proco.init(config.agent, parts.agent, k))(train.seed_keys(0, 2))
    (tmp_path / "config.json").write_text(configs.to_json(config))
    (tmp_path / deploy.SCALE_FILE).write_text(deploy.scale_text(SPEC, scale, 2))
    model = deploy.empty_model(config.dynamics, SPEC, 2)
    model = drawn(model)._replace(elites=jnp.arange(config.dynamics.elites))
    deploy.save_policy(tmp_path, "proco", 10, agents, model)
    return tmp_path, config, parts, scale, (agents, model), obs


def test_a_loaded_policy_acts_as_the_trained_one(run):
    folder, _, parts, scale, (agents, model), obs = run
    act = deploy.load_policy(folder, "proco", seed=1)
    agent = jax.tree.map(lambda x: x[1:2], agents)
    key = jax.random.key(3)
    expected = acting.act(parts, scale, model, agent, obs[None, :1], key[None, None])[0, 0]
    np.testing.assert_allclose(act(obs[0], jax.random.clone(key)), expected, rtol=1e-5, atol=1e-6)


def test_a_model_for_each_seed_is_loaded_with_its_seed(run):
    folder, config, parts, scale, (agents, model), obs = run
    config.dynamics.per_seed = True
    (folder / "config.json").write_text(configs.to_json(config))
    both = jax.tree.map(lambda x: jnp.stack([x, x if x.dtype == jnp.int32 else -x]), model)
    deploy.save_policy(folder, "proco", 11, agents, both)
    key = jax.random.key(3)
    everyone = jnp.broadcast_to(key, (2, 1))
    expected = acting.act(parts, scale, both, agents, jnp.stack([obs[:1]] * 2), everyone)[:, 0]
    for seed in (0, 1):
        found = deploy.load_policy(folder, seed=seed)(obs[0], jax.random.clone(key))
        np.testing.assert_allclose(found, expected[seed], rtol=1e-5, atol=1e-6)


def test_a_policy_without_the_model_it_looks_into_is_refused(run):
    folder = run[0]
    shutil.rmtree(folder / "policy" / "dynamics")
    with pytest.raises(FileNotFoundError, match="dynamics"):
        deploy.load_policy(folder)


def test_seeds_are_different_policies(run):
    folder, config, *_, obs = run
    config.agent.escapes = 0
    (folder / "config.json").write_text(configs.to_json(config))
    first, second = (deploy.load_policy(folder, seed=s)(obs[0], jax.random.key(3)) for s in (0, 1))
    assert not np.allclose(first, second)


def test_with_a_risk_the_bounds_are_those_that_were_foreseen_within_it(run):
    folder, config, parts, scale, (agents, model), obs = run
    config.agent.risk = 0.1
    (folder / "config.json").write_text(configs.to_json(config))
    with pytest.raises(FileNotFoundError, match="foreseen"):
        deploy.load_policy(folder)
    careful = {"feasible_up_to": 0.0, "escape_above": -1e9, "deployed": False}
    bold = {"feasible_up_to": 1e9, "escape_above": 1e9, "deployed": True}
    (folder / "foreseen.json").write_text(json.dumps({"bounds on Q_h": [careful, bold]}))
    assert deploy.deployed(folder, config).agent.escape_above == 1e9
    key = jax.random.key(3)
    agent = dataclasses.replace(config.agent, feasible_up_to=1e9, escape_above=1e9)
    parts = parts._replace(config=dataclasses.replace(config, agent=agent))
    first = jax.tree.map(lambda x: x[:1], agents)
    expected = acting.act(parts, scale, model, first, obs[None, :1], key[None, None])[0, 0]
    found = deploy.load_policy(folder)(obs[0], jax.random.clone(key))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_is_missing_is_named(run, tmp_path):
    folder = run[0]
    with pytest.raises(FileNotFoundError, match="'baseline'"):
        deploy.load_policy(folder, "baseline")
    with pytest.raises(ValueError, match="2 policies"):
        deploy.load_policy(folder, seed=2)


def test_a_config_survives_its_json():
    config = Config(task="SafetyCarGoal1")
    config.agent.hidden = (7, 9)
    config.data.collect.gains = (1.0,)
    again = configs.from_json(configs.to_json(config))
    assert dataclasses.asdict(again) == dataclasses.asdict(config)


def test_a_config_of_another_version_is_refused():
    with pytest.raises(ValueError, match="no_such"):
        configs.from_json('{"no_such": 1}')
