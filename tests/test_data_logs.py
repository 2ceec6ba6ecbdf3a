import json
import shutil

import numpy as np
import pytest
from data_toys import ORIGIN, STEPS, TASK, make_episode, same_episodes

from proco_jax.config.schema import Config, DataConfig
from proco_jax.data.checks import DataError, truncate_at_limit
from proco_jax.data.logs import load_logs, to_dataset
from proco_jax.data.minari_writer import write_dataset
from proco_jax.envs.tasks import get_task
from proco_jax.report.dataset_picture import PARTS
from proco_jax.report.plot_style import TEXT

TASK_AS_RUN = get_task("SafetyPointGoal1")
ID = "toys/logs-v0"
COSTS = [0, 0, 5, 0, 0, 0, 30, 0, 0, 0, 0, 0]


def config_for(root, **data) -> Config:
    return Config(
        task="SafetyPointGoal1",
        data=DataConfig(**{"source": f"minari:{ID}", "root": str(root), **data}),
    )


def store(root, episodes):
    write_dataset(root, ID, episodes, None, ORIGIN)


@pytest.fixture
def episodes():
    return [make_episode(seed, cost=cost) for seed, cost in enumerate(COSTS)]


@pytest.fixture
def root(tmp_path, episodes):
    store(tmp_path / "root", episodes)
    return tmp_path / "root"


def test_transition_i_goes_from_its_observation_to_the_next_row():
    episodes = [
        make_episode(0, steps=3),
        make_episode(1, steps=1)._replace(terminated=True),
        make_episode(2, steps=2, cost=7.0),
    ]
    data = to_dataset(episodes)
    np.testing.assert_array_equal(data.obs_index, [0, 1, 2, 4, 6, 7])
    np.testing.assert_array_equal(data.episode, [0, 0, 0, 1, 2, 2])
    np.testing.assert_array_equal(data.remaining, [2, 1, 0, 0, 1, 0])
    # Only a true termination ends the future; the time limits of the others do not.
    np.testing.assert_array_equal(data.discount, [1, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(data.cost, [0, 0, 0, 0, 0, 7])
    np.testing.assert_array_equal(data.obs[data.obs_index + 1][5], episodes[2].obs[2])
    np.testing.assert_array_equal(data.action[3], episodes[1].action[0])
    assert data.size == 6 and data.obs.shape == (9, 60)
    assert {x.dtype for x in (data.obs, data.action, data.reward, data.discount)} == {
        np.dtype(np.float32)
    }
    assert {x.dtype for x in (data.obs_index, data.episode, data.remaining)} == {np.dtype(np.int32)}
    with pytest.raises(ValueError, match="no episode"):
        to_dataset([])


def test_the_safe_regime_hands_on_only_violation_free_trajectories(root, episodes, tmp_path):
    logs = load_logs(config_for(root), tmp_path / "run", lambda line: None)
    assert all(e.cost.sum() == 0 for e in logs.episodes + logs.holdout)
    assert same_episodes(logs.dropped, [episodes[2], episodes[6]])
    assert (len(logs.episodes), len(logs.holdout)) == (9, 1)
    assert logs.spec == TASK.spec and logs.task == "SafetyPointGoal1"


def test_the_card_tells_what_there_was_and_what_is_left(root, episodes, tmp_path):
    lines: list[str] = []
    logs = load_logs(config_for(root, regime="limited"), tmp_path / "run", lines.append)
    card = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert card == logs.card
    assert card["before"]["episodes"] == 12 and card["before"]["steps"] == 12 * STEPS
    assert card["before"]["violation_free_share"] == pytest.approx(10 / 12)
    assert card["before"]["cost"]["max"] == 30 and card["before"]["cost"]["median"] == 0
    assert card["before"]["cost"]["mean"] == pytest.approx(35 / 12)
    assert card["after"]["episodes"] == 11
    assert card["train"]["episodes"] + card["holdout"]["episodes"] == 11
    assert card["dropped"] == {"episodes": 1, "steps": STEPS}
    assert card["provenance"]["recipe"] == {"toy": 1}
    assert card["dataset_id"] == ID and card["cost_limit"] == 10.0
    parts = [row["part"] for row in card["trajectories"]]
    assert [parts.count(p) for p in ("train", "holdout", "dropped")] == [10, 1, 1]
    assert card["trajectories"][6]["cost"] == 30
    assert card["trajectories"][3]["return"] == pytest.approx(episodes[3].reward.sum(), abs=1e-5)
    assert any("12 episodes" in line for line in lines)


def test_the_card_has_a_picture_and_a_rerun_leaves_both_alone(root, tmp_path):
    from matplotlib.image import imread

    run = tmp_path / "run"
    load_logs(config_for(root), run, lambda line: None)
    picture = run / "pictures" / "dataset.png"
    pixels = imread(picture)
    assert min(pixels.shape[:2]) > 500

    def drawn(color):
        wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.03

    for color, name in PARTS.values():
        assert drawn(color).sum() > 20, name
    # The dashed cost limit spans most of one row of pixels, which no text does.
    assert drawn(TEXT).sum(axis=1).max() > pixels.shape[1] / 3
    stamps = [p.stat().st_mtime_ns for p in (picture, run / "dataset.json")]
    load_logs(config_for(root), run, lambda line: None)
    assert [p.stat().st_mtime_ns for p in (picture, run / "dataset.json")] == stamps
    assert sorted(p.name for p in run.rglob("*")) == [
        "checksums.json",
        "dataset.json",
        "dataset.png",
        "pictures",
    ]


@pytest.mark.parametrize("costs", [[0, 0, 0], [1, 2, 3]])
def test_the_picture_stands_a_dataset_of_one_kind(tmp_path, costs):
    store(tmp_path, [make_episode(i, cost=c) for i, c in enumerate(costs)])
    load_logs(config_for(tmp_path, regime="full"), tmp_path / "run", lambda line: None)
    assert (tmp_path / "run" / "pictures" / "dataset.png").stat().st_size > 1000


def test_the_same_config_gives_the_same_split(root, tmp_path):
    first, second = (
        load_logs(config_for(root, seed=4), tmp_path / str(i), lambda line: None) for i in (0, 1)
    )
    assert same_episodes(first.holdout, second.holdout)
    assert same_episodes(first.episodes, second.episodes)


def test_a_begun_run_refuses_data_that_were_replaced_under_the_same_id(root, episodes, tmp_path):
    run = tmp_path / "run"
    first = load_logs(config_for(root), run, lambda line: None)
    card = (run / "dataset.json").read_text()
    assert json.loads(card)["digest"] == first.digest
    shutil.rmtree(root)
    store(root, episodes)
    assert load_logs(config_for(root), run, lambda line: None).digest == first.digest
    # A single bit of a single reward.
    changed = episodes[3].reward.copy()
    changed.view(np.uint32)[5] ^= 1
    shutil.rmtree(root)
    store(root, [*episodes[:3], episodes[3]._replace(reward=changed), *episodes[4:]])
    with pytest.raises(DataError, match=r"began with other logs.*restore the dataset.*--workdir"):
        load_logs(config_for(root), run, lambda line: None)
    assert (run / "dataset.json").read_text() == card
    assert load_logs(config_for(root), tmp_path / "new").digest != first.digest


def test_a_damaged_card_is_reported_with_its_path(root, tmp_path):
    run = tmp_path / "run"
    load_logs(config_for(root), run, lambda line: None)
    (run / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json is damaged.* remove the file"):
        load_logs(config_for(root), run, lambda line: None)


def test_a_transition_into_the_next_episode_is_dropped_and_its_cost_counts(tmp_path, episodes):
    obs = episodes[2].obs.copy()
    obs[-1] = episodes[3].obs[0]
    store(tmp_path, [*episodes[:2], episodes[2]._replace(obs=obs), *episodes[3:]])
    lines: list[str] = []
    logs = load_logs(config_for(tmp_path), tmp_path / "run", lines.append)
    # Its only cost was that of the dropped transition; it is violating nevertheless.
    assert logs.split.dropped == [2, 6]
    assert len(logs.dropped[0].reward) == STEPS - 1 and logs.dropped[0].cost.sum() == 0
    assert logs.card["corrections"] == [line.partition(": ")[2] for line in lines[:2]]
    assert "1 of 12 episodes store the first observation of another" in lines[0]


def test_episodes_that_end_where_all_others_start_are_accepted(tmp_path, episodes):
    loops = []
    for episode in episodes:
        obs = episode.obs.copy()
        obs[[0, -1]] = 1.0
        loops.append(episode._replace(obs=obs))
    store(tmp_path, loops)
    assert load_logs(config_for(tmp_path), tmp_path / "run").split.dropped == [2, 6]


def test_a_termination_at_the_time_limit_is_a_truncation(tmp_path):
    lines: list[str] = []
    limit = TASK_AS_RUN.episode_steps
    whole = [make_episode(i, steps=limit)._replace(terminated=True) for i in range(2)]
    short = make_episode(2, steps=limit - 1)._replace(terminated=True)
    store(tmp_path, [*whole, short])
    config = config_for(tmp_path, holdout_share=0.0)
    logs = load_logs(config, tmp_path / "run", lines.append)
    assert [e.terminated for e in logs.episodes] == [False, False, True]
    assert any(
        f"2 of 3 episodes are marked as terminated at the time limit of {limit}" in line
        for line in lines
    )


def test_an_unknown_limit_is_inferred_only_from_episodes_that_all_terminate():
    def ends(lengths, truncated=()):
        episodes = [
            make_episode(i, steps=n)._replace(terminated=i not in truncated)
            for i, n in enumerate(lengths)
        ]
        found, changed, limit = truncate_at_limit(episodes, None)
        return [e.terminated for e in found], changed, limit

    assert ends([9, 9, 4, 9]) == ([False, False, True, False], 3, 9)
    # Too few of the longest length, or a dataset that marks its time limits.
    assert ends([9, 9, 4]) == ([True] * 3, 0, None)
    assert ends([9, 9, 9, 5, 4, 4, 3]) == ([True] * 7, 0, None)
    assert ends([9, 9, 9, 9], truncated=(3,)) == ([True, True, True, False], 0, None)


def test_nothing_left_writes_nothing(tmp_path):
    store(tmp_path, [make_episode(i, cost=4.0 + i) for i in range(3)])
    with pytest.raises(DataError, match=r"keeps 0 of 3 episodes.*lowest costs are 4, 5, 6"):
        load_logs(config_for(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_actions_beyond_the_limits_are_clipped_and_counted(tmp_path):
    lines: list[str] = []
    episode = make_episode(1)
    store(tmp_path, [make_episode(0), episode._replace(action=episode.action * 3)])
    config = config_for(tmp_path, holdout_share=0.0)
    logs = load_logs(config, tmp_path / "run", lines.append)
    assert max(np.abs(e.action).max() for e in logs.episodes) == 1
    assert logs.card["clipped_actions"] > 0
    assert any("outside [-1, 1] and are clipped" in line for line in lines)


def test_episodes_of_different_sizes_are_refused(tmp_path):
    store(tmp_path, [make_episode(0), make_episode(1, size=60)])
    import h5py

    (tmp_path / ID / "manifest.json").unlink()
    with h5py.File(tmp_path / ID / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/actions"]
        file["episode_1/actions"] = np.zeros((STEPS, 3))
    with pytest.raises(DataError, match="episode 1: actions have 3 numbers, expected 2"):
        load_logs(config_for(tmp_path), tmp_path / "run")


def test_an_unknown_source_is_refused(tmp_path):
    for source in ("minari", "dsrl:", "s3:bucket"):
        with pytest.raises(DataError, match=r"data\.source: found .*, expected collect, minari"):
            load_logs(config_for(tmp_path, source=source), tmp_path / "run")
