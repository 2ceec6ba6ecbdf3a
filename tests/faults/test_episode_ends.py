"""Resets stored as final observations, and time limits stored as terminations."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_toys import ORIGIN, TASK, make_episode, same_episodes

from proco_jax.config.schema import Config, DataConfig
from proco_jax.data.checks import DataError, truncate_at_limit
from proco_jax.data.episode_ends import correct_ends
from proco_jax.data.logs import Logs, load_logs
from proco_jax.data.minari_writer import write_dataset
from proco_jax.envs.tasks import get_task
from proco_jax.types import Episode

LIMIT = 40


def drive(seed: int, steps: int = LIMIT, cost: Sequence[int] = ()) -> Episode:
    """An episode that starts at rest at a random place and moves in small steps."""
    rng = np.random.default_rng(seed)
    velocity = np.concatenate([np.zeros((1, 4)), rng.normal(1.0, 0.2, (steps, 4))])
    place = rng.uniform(-9, 9, 56) + np.cumsum(rng.normal(0, 0.1, (steps + 1, 56)), 0)
    costs = np.zeros(steps, np.float32)
    costs[list(cost)] = 1
    return Episode(
        obs=np.concatenate([velocity, place], 1).astype(np.float32),
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=rng.normal(size=steps).astype(np.float32),
        cost=costs,
        terminated=False,
    )


def shifted(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes of a file whose next observations are the observations rolled by one."""
    firsts = [e.obs[:1] for e in [*episodes[1:], episodes[0]]]
    return [
        e._replace(obs=np.concatenate([e.obs[:-1], first]))
        for e, first in zip(episodes, firsts, strict=True)
    ]


def joined(one: Episode, other: Episode) -> Episode:
    """Two episodes of such a file without a mark between them."""
    action, reward, cost = (
        np.concatenate([a, b]) for a, b in zip(one[1:4], other[1:4], strict=True)
    )
    obs = np.concatenate([one.obs[:-1], other.obs])
    return Episode(obs, action, reward, cost, other.terminated)


def shortened(episode: Episode) -> Episode:
    """The episode without its last transition."""
    return Episode(*(x[:-1] for x in episode[:4]), terminated=False)


@pytest.mark.parametrize("make", [drive, make_episode])
def test_correct_episodes_stay_as_they_are(make) -> None:
    episodes = [make(0), make(1, 7)._replace(terminated=True), make(2, 23), make(3)]
    found = correct_ends(episodes, "logs")
    assert same_episodes(found.episodes, episodes)
    assert found.dropped_cost == [0, 0, 0, 0] and found.notes == []
    assert correct_ends([], "logs").episodes == []
    assert same_episodes(correct_ends(episodes[:1], "logs").episodes, episodes[:1])


@pytest.mark.parametrize("make", [drive, make_episode])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0], [1, 2, 3, 0]])
def test_the_other_episode_may_stand_anywhere(make, order: list[int]) -> None:
    episodes = [make(i) for i in range(4)]
    wrong = shifted(episodes)
    found = correct_ends([wrong[i] for i in order], "logs")
    assert same_episodes(found.episodes, [shortened(episodes[i]) for i in order])
    assert len(found.notes) == 1 and found.notes[0].startswith("4 of 4 episodes store the first")


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("rounded", ["all", "final", "others"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 1, 4, 0, 2]])
def test_rounded_numbers_are_recognized(kind, rounded: str, order: list[int]) -> None:
    def to_kind(e: Episode, rows: slice) -> Episode:
        obs = e.obs.copy()
        obs[rows] = obs[rows].astype(kind)
        return e._replace(obs=obs)

    rows = {"all": slice(None), "final": slice(-1, None), "others": slice(None, -1)}[rounded]
    wrong = [to_kind(e, rows) for e in shifted([drive(i) for i in range(5)])]
    wrong = [wrong[i] for i in order]
    found = correct_ends(wrong, "logs")
    assert same_episodes(found.episodes, [shortened(e) for e in wrong])


def test_only_wrong_final_observations_are_dropped() -> None:
    episodes = [drive(i) for i in range(4)]
    found = correct_ends([episodes[0], shifted(episodes)[1], *episodes[2:]], "logs")
    expected = [episodes[0], shortened(episodes[1]), *episodes[2:]]
    assert same_episodes(found.episodes, expected)


def test_an_episode_that_a_file_holds_twice_is_recognized_too() -> None:
    wrong = shifted([drive(i) for i in range(6)])
    found = correct_ends([*wrong, *wrong], "logs")
    assert same_episodes(found.episodes, [shortened(e) for e in [*wrong, *wrong]])


def test_a_filtered_file_tells_resets_by_their_jumps() -> None:
    wrong = shifted([drive(i) for i in range(8)])[::2]
    found = correct_ends(wrong, "logs")
    assert same_episodes(found.episodes, [shortened(e) for e in wrong])
    assert found.notes[0].startswith("4 of 4 episodes jump, as to a reset")


@pytest.mark.parametrize("last", ["repeated", "zero", "true"])
def test_the_last_row_of_a_shifted_file_has_no_successor(last: str) -> None:
    episodes = [drive(i) for i in range(4)]
    wrong = shifted(episodes)
    finals = {"repeated": wrong[-1].obs[-2], "zero": np.zeros(60), "true": episodes[-1].obs[-1]}
    obs = np.concatenate([wrong[-1].obs[:-1], finals[last][None].astype(np.float32)])
    wrong[-1] = wrong[-1]._replace(obs=obs)
    expected = episodes[-1] if last == "true" else shortened(episodes[-1])
    assert same_episodes(correct_ends(wrong, "logs").episodes[-1:], [expected])


def test_unmarked_ends_of_a_shifted_file_are_found_and_their_cost_counts() -> None:
    episodes = [drive(i, 20 + i, [19 + i] if i in (0, 2) else []) for i in range(8)]
    a, b, c, d, e, f, g, h = shifted(episodes)
    found = correct_ends([joined(a, b), c, joined(joined(d, e), f), g, h], "logs")
    assert same_episodes(found.episodes, [shortened(e) for e in episodes])
    assert found.dropped_cost == [1, 0, 1, 0, 0, 0, 0, 0]
    assert found.notes[1].startswith("3 ends that are not marked")
    assert found.notes[2].startswith("2 dropped transitions have a cost")


def test_unmarked_ends_that_cannot_be_found_are_refused() -> None:
    a, b, c, d, e = shifted([make_episode(i) for i in range(5)])
    with pytest.raises(DataError, match="episode 0 has 24 steps while most have 12: ends of epis"):
        correct_ends([joined(a, b), c, d, e], "logs")


def test_a_robot_that_stops_starts_no_episode() -> None:
    episodes = [drive(i) for i in range(5)]
    episodes[2].obs[10:20, :4] = 0
    episodes[2].obs[10:20, 4:] = episodes[2].obs[9, 4:]
    found = correct_ends(shifted(episodes), "logs")
    assert [len(e.reward) for e in found.episodes] == [LIMIT - 1] * 5


def test_an_episode_of_one_wrong_transition_is_removed() -> None:
    found = correct_ends(shifted([drive(0), drive(1, 1), drive(2)]), "logs")
    assert [len(e.reward) for e in found.episodes] == [LIMIT - 1, LIMIT - 1]
    assert len(found.dropped_cost) == 2
    with pytest.raises(DataError, match="every transition leads into another episode"):
        correct_ends(shifted([drive(i, 1) for i in range(3)]), "logs")


@pytest.mark.parametrize("last", ["own start", "zeros"])
def test_the_only_episode_of_a_shifted_file_is_recognized(last: str) -> None:
    whole = drive(0)
    final = whole.obs[:1] if last == "own start" else np.zeros_like(whole.obs[:1])
    wrong = whole._replace(obs=np.concatenate([whole.obs[:-1], final]))
    found = correct_ends([wrong], "logs")
    assert same_episodes(found.episodes, [shortened(whole)])
    assert found.notes[0].startswith("1 of 1 episodes store their own first observation, or zeros")
    assert same_episodes(correct_ends([whole], "logs").episodes, [whole])


def test_the_only_episode_of_a_shifted_file_that_hides_an_end_is_refused() -> None:
    with pytest.raises(DataError, match="jumps after step 39 as well; mark the end of every"):
        correct_ends([joined(*shifted([drive(0), drive(1)]))], "logs")


def test_states_that_recur_everywhere_prove_nothing() -> None:
    # A grid world: every episode walks over cells where others start.
    rng = np.random.default_rng(0)
    walks = [np.cumsum(rng.integers(-1, 2, (20, 2)), 0) % 5 for _ in range(30)]
    episodes = [drive(i, 19)._replace(obs=x.astype(np.float32)) for i, x in enumerate(walks)]
    assert correct_ends(episodes, "logs").notes == []


def test_episodes_that_return_to_the_one_start_of_all_are_correct() -> None:
    episodes = [drive(i) for i in range(6)]
    for episode in episodes:
        episode.obs[[0, -1]] = 1.0
    # They end at a jump of this toy, but at the same place.
    assert not any("store the first" in note for note in correct_ends(episodes, "logs").notes)


# Through files, as a run reads them.


def load(root: Path, task: str = "SafetyPointGoal1", source: str = "minari:toys/logs-v0") -> Logs:
    data = DataConfig(source=source, root=str(root), regime="full", holdout_share=0.0)
    return load_logs(Config(task=task, data=data), root / "run", lambda line: None)


@pytest.mark.parametrize("file", ["minari", "dsrl"])
@pytest.mark.parametrize("length", [1000, 400])
def test_time_limits_stored_as_terminations_are_truncations(
    tmp_path: Path, file: str, length: int
) -> None:
    """Also of logs that were recorded with a shorter limit than the task's."""
    episodes = [drive(i, length)._replace(terminated=True) for i in range(4)]
    early = drive(9, 37)._replace(terminated=True)
    source = save([*episodes, early], tmp_path, file)
    logs = load(tmp_path, source=source)
    assert [e.terminated for e in logs.episodes] == [False] * 4 + [True]
    assert f"at the time limit of {length} steps" in logs.card["corrections"][0]


@pytest.mark.parametrize("file", ["minari", "dsrl"])
def test_resets_stored_as_final_observations_are_dropped(tmp_path: Path, file: str) -> None:
    episodes = [drive(i) for i in range(5)]
    logs = load(tmp_path, source=save(shifted(episodes), tmp_path, file))
    assert same_episodes(logs.episodes, [shortened(e) for e in episodes])
    assert len(logs.card["corrections"]) == 1


def test_a_shifted_file_that_terminates_at_the_limit_is_corrected_in_both_ways(
    tmp_path: Path,
) -> None:
    episodes = [drive(i) for i in range(4)]
    wrong = [e._replace(terminated=True) for e in shifted(episodes)]
    logs = load(tmp_path, source=save(wrong, tmp_path, "minari"))
    assert same_episodes(logs.episodes, [shortened(e) for e in episodes])
    assert len(logs.card["corrections"]) == 2


def test_an_episode_beyond_the_time_limit_is_refused(tmp_path: Path) -> None:
    source = save([drive(0), drive(1, 1001)], tmp_path, "minari")
    with pytest.raises(DataError, match=r"episode 1: 1001 steps, but .* ends after 1000; mark"):
        load(tmp_path, source=source)


@pytest.mark.parametrize(
    ("lengths", "limit", "terminated"),
    [
        ([30, 30, 12, 30], LIMIT, [False, False, True, False]),
        ([30, 30, 12, 30], None, [False, False, True, False]),
        ([30, 29, 12, 30, 12, 12], None, [True] * 6),
        ([40, 11, 39, 40], 40, [False, True, True, False]),
        ([7], None, [True]),
    ],
)
def test_the_longest_episodes_tell_an_unknown_limit(lengths, limit, terminated) -> None:
    episodes = [drive(i, n)._replace(terminated=True) for i, n in enumerate(lengths)]
    assert [e.terminated for e in truncate_at_limit(episodes, limit)[0]] == terminated


def save(episodes: Sequence[Episode], root: Path, kind: str) -> str:
    """Stores episodes as a dataset or a DSRL file; returns the setting `data.source`."""
    if kind == "minari":
        write_dataset(root, "toys/logs-v0", episodes, None, ORIGIN)
        return "minari:toys/logs-v0"
    path = root / get_task(TASK.name).dsrl_file
    ends = np.cumsum([len(e.reward) for e in episodes]) - 1
    over = np.zeros(ends[-1] + 1, bool)
    over[ends] = True
    terminated = list(itertools.chain(*([e.terminated] * len(e.reward) for e in episodes)))
    with h5py.File(path, "w") as file:
        file["observations"] = np.concatenate([e.obs[:-1] for e in episodes])
        file["next_observations"] = np.concatenate([e.obs[1:] for e in episodes])
        file["actions"] = np.concatenate([e.action for e in episodes])
        file["rewards"] = np.concatenate([e.reward for e in episodes])
        file["costs"] = np.concatenate([e.cost for e in episodes])
        file["terminals"] = over & terminated
        file["timeouts"] = over & ~np.array(terminated)
    return f"dsrl:{path}"
