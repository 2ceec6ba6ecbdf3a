import numpy as np
import pytest
from PIL import Image
from test_report_results import row

from proco_jax.envs.tasks import get_task
from proco_jax.evaluation.episodes import memoryless
from proco_jax.report import pictures
from proco_jax.report.dataset_picture import draw_dataset
from proco_jax.report.plot_style import COLORS, cost_limit_line, panels
from proco_jax.report.render import draw_recording, render_episode
from proco_jax.report.scene import Recording, Scene, record_episode
from proco_jax.report.tables import summarize


def ink(path):
    """The share of pixels that aren't white."""
    image = np.asarray(Image.open(path).convert("RGB"))
    return (image < 250).any(axis=-1).mean()


def size(path):
    """Width and height."""
    with Image.open(path) as image:
        return image.size


def colors(path):
    """How many colors of the palette a picture shows."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = [np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in COLORS]
    return sum(bool((np.abs(image - c).max(axis=-1) < 8).any()) for c in wanted)


def scenes(count):
    objects = {"hazards": np.array([[1.0, 0.5, 0.0]]), "buttons": np.array([[0.0, 1.0, 0.0]])}
    return [
        Scene(
            i, 0.1 * i, max(0, i - 3), i > 3, (0.1 * i, 0.0, 0.0), objects, 0, np.zeros((0, 2, 2))
        )
        for i in range(count)
    ]


def test_a_feasibility_map_tells_its_regions_apart(tmp_path):
    xs = ys = np.linspace(-1, 1, 21)
    distance = np.hypot(*np.meshgrid(xs, ys))
    maps = {"PROCO": np.where(distance < 0.5, 20.0, -1.0)}
    path = pictures.feasibility_map(
        tmp_path / "v_h.png", xs, ys, maps, [(0.0, 0.0)], 0.2, velocity=(1.0, 0.0), title="V"
    )
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    red, blue = image[..., 0] - image[..., 2] > 60, image[..., 2] - image[..., 0] > 60
    assert red.mean() > 0.03 and blue.mean() > 0.2


def test_a_map_that_does_not_fit_its_grid_is_refused(tmp_path):
    axis = np.arange(3.0)
    with pytest.raises(ValueError, match=r"\(3, 2\), expected \(3, 3\)"):
        pictures.feasibility_map(
            tmp_path / "v_h.png", axis, axis, {"a": np.zeros((3, 2))}, [(0, 0)], 0.2
        )
    assert not list(tmp_path.iterdir())


def test_maps_of_one_sign_are_drawn_too(tmp_path):
    axis = np.linspace(-1, 1, 5)
    maps = {"a": -np.ones((5, 5)), "b": np.full((5, 5), -0.5)}
    assert ink(pictures.feasibility_map(tmp_path / "m.png", axis, axis, maps, [(0, 0)], 0.2)) > 0.2


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_no_label_of_a_feasibility_map_is_cut_off(tmp_path, count):
    axis = np.linspace(-1, 1, 5)
    maps = {f"policy {i}": -np.ones((5, 5)) for i in range(count)}
    path = pictures.feasibility_map(
        tmp_path / "m.png", axis, axis, maps, [(0, 0)], 0.2, title="One obstacle"
    )
    image = np.asarray(Image.open(path).convert("L"))
    edges = np.concatenate([image[:3].ravel(), image[-3:].ravel(), image[:, -3:].ravel()])
    assert edges.min() > 250


def test_the_results_picture_has_a_color_for_each_training(tmp_path):
    def shown(augmentations, shields):
        rows = [row(augmentation, shield) for augmentation in augmentations for shield in shields]
        return colors(pictures.results_picture(tmp_path / "results.png", summarize(rows)))

    # Text and limit are almost black, which is a color of the palette too.
    one = shown(["proco"], ["none"])
    assert shown(["proco"], ["planner", "filter", "none"]) == one
    assert shown(["proco", "none"], ["planner", "none"]) == one + 1
    assert shown(["proco", "control", "none"], ["none"]) == one + 2


@pytest.mark.slow
def test_many_trainings_get_a_panel_for_each_algorithm(tmp_path):
    names = ("bc", "bcq_lag", "cdt", "cpq", "fisor")
    rows = [
        row(augmentation, step=step, algorithm=name)
        for name in names
        for augmentation in ("proco", "none")
        for step in (50, 100)
    ]
    results = pictures.results_picture(tmp_path / "results.png", summarize(rows))
    curves = pictures.learning_curves(tmp_path / "curves.png", rows)
    one = [one for one in rows if one["algorithm"] == "bc"]
    single = pictures.results_picture(tmp_path / "single.png", summarize(one))
    assert colors(results) == colors(curves) == colors(single)
    assert size(results)[0] > size(single)[0]
    assert size(curves)[1] > size(curves)[0]


def test_the_name_of_the_cost_limit_lies_outside_of_the_data():
    figure, (axes,) = panels(1, 1, 4, 3)
    axes.plot([0, 1], [5, 15])
    cost_limit_line(axes, 10.0)
    figure.canvas.draw()
    (name,) = axes.texts
    renderer = figure.canvas.get_renderer()
    assert "10" in name.get_text()
    assert name.get_window_extent(renderer).x0 > axes.get_window_extent(renderer).x1


@pytest.mark.slow
def test_learning_curves_leave_out_what_was_evaluated_once(tmp_path):
    rows = [row(step=50), row(step=100), row("none", step=100)]
    both = pictures.learning_curves(tmp_path / "both.png", [*rows, row("none", step=50)])
    assert colors(pictures.learning_curves(tmp_path / "one.png", rows)) == colors(both) - 1
    with pytest.raises(ValueError, match="two steps or more"):
        pictures.learning_curves(tmp_path / "none.png", rows[1:])


@pytest.mark.parametrize("costs", [(0.0, 0.0), (0.0, 30.0), (20.0, 30.0)])
def test_a_dataset_is_drawn_with_and_without_violations(tmp_path, costs):
    rows = [
        {"return": 1.0 + i, "cost": cost, "steps": 9, "part": part}
        for i, (cost, part) in enumerate(zip(costs, ("train", "holdout"), strict=True))
    ]
    card = {"task": "toy", "regime": "full", "cost_limit": 10.0, "trajectories": rows}
    card |= {"before": {"episodes": 2}, "after": {"episodes": 2}}
    assert colors(draw_dataset(card, tmp_path / "dataset.png")) >= 2


def test_each_set_of_episodes_has_its_own_curves(tmp_path):
    def rows(episodes, error):
        shared = {"mae_persistence": 0.1, "mae_model": error, "correlation": 0.5}
        return [{"episodes": episodes, "steps": s} | shared for s in (1, 5)]

    safe, violating = rows("safe", 0.02), rows("violating", 0.08)
    one = pictures.open_loop_curves(tmp_path / "one.png", safe)
    both = pictures.open_loop_curves(tmp_path / "both.png", [*safe, *violating])
    assert colors(both) == colors(one) + 1
    speeds = pictures.open_loop_curves(tmp_path / "speeds.png", safe, "m/s")
    assert speeds.read_bytes() != one.read_bytes()


def test_curves_of_metrics_leave_out_what_is_null(tmp_path):
    lines = [
        {"stage": "train", "step": 1, "loss": None, "value": 1.0},
        {"stage": "train", "step": 2, "loss": 2.0, "value": 1.0},
    ]
    assert ink(pictures.metric_curves(tmp_path / "metrics.png", lines, "train")) > 0.01


def test_an_animation_has_a_frame_per_scene_and_marks_violations(tmp_path):
    recording = Recording(
        get_task("PointGoal1"), 0, scenes(6), {"hazards": 0.2, "buttons": 0.1}, 0.0, (None, None)
    )
    path = draw_recording(tmp_path / "episode.gif", recording, "toy", 25)
    with Image.open(path) as animation:
        assert getattr(animation, "n_frames", 1) == 6
        reds = []
        for index in (0, 5):
            animation.seek(index)
            image = np.asarray(animation.convert("RGB")).astype(int)
            reds.append(((image[..., 0] > 180) & (image[..., 2] < 60)).sum())
    assert reds[1] > reds[0] + 50


def test_other_formats_are_refused_before_an_episode_is_run(tmp_path):
    with pytest.raises(ValueError, match=r"\*\.gif"):
        render_episode(
            get_task("PointGoal1"), memoryless(lambda *_: 1 / 0), 0, tmp_path / "episode.mp4"
        )


# The simulator makes an integer of an array, which NumPy 2.3 only warns about.
@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["CarButton2", "PointPush1", "PointCircle2", "HopperVelocity"])
def test_episodes_of_every_kind_can_be_recorded(name):
    task = get_task(name)
    rng = np.random.default_rng(0)
    recording = record_episode(
        task,
        memoryless(lambda *_: rng.uniform(-1, 1, (1, 1, task.action_size))),
        seed=7,
        stride=50,
    )
    last = recording.scenes[-1]
    assert 0 < last.step <= task.episode_steps
    assert np.isfinite([last.episode_return, *last.robot]).all()
    for kind, poses in last.objects.items():
        assert poses.shape[1] == 3 and recording.sizes[kind] > 0
    if task.kind == "Button":
        assert last.target is None or 0 <= last.target < 4
    if task.kind == "Velocity":
        assert len(last.bones) > 3
