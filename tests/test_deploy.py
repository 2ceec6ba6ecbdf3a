"""A policy that was kept acts as it did in training."""

import dataclasses

import jax
import numpy as np
import pytest

from proco_jax import config as configs
from proco_jax import deploy, train
from proco_jax.algorithms import proco
from proco_jax.config import Config
from proco_jax.observation import Field, ObservationSpec
from proco_jax.scaling import fit_scale

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
    parts = train.make_parts(config, SPEC, 2)
    obs = np.random.default_rng(0).random((50, SPEC.size)).astype(np.float32)
    scale = fit_scale(SPEC, obs)
    agents = jax.vmap(lambda k: proco.init(config.agent, parts.agent, k))(train.seed_keys(0, 2))
    (tmp_path / "config.json").write_text(configs.to_json(config))
    (tmp_path / deploy.SCALE_FILE).write_text(deploy.scale_text(SPEC, scale, 2))
    deploy.save_policy(tmp_path, "proco", 10, agents)
    return tmp_path, config, parts, scale, agents, obs


def test_a_loaded_policy_acts_as_the_trained_one(run):
    folder, config, parts, scale, agents, obs = run
    act = deploy.load_policy(folder, "proco", seed=1)
    agent = jax.tree.map(lambda x: x[1], agents)
    expected = proco.act(config.agent, parts.agent, agent, scale(obs[0]), jax.random.key(3))
    np.testing.assert_allclose(act(obs[0], jax.random.key(3)), expected, rtol=1e-5, atol=1e-6)


def test_seeds_are_different_policies(run):
    folder, *_, obs = run
    first, second = (deploy.load_policy(folder, seed=s)(obs[0], jax.random.key(3)) for s in (0, 1))
    assert not np.allclose(first, second)


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
