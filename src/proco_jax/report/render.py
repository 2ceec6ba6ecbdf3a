"""An episode as an animated GIF, drawn from the simulator's positions.

MuJoCo's own camera needs EGL or OSMesa, which many machines lack; a plan view
needs neither and shows more: where it is forbidden, the way that was taken, and
where it cost.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import write_atomic
from proco_jax.envs.tasks import Task
from proco_jax.report.plot_style import COLORS, INK, PALE, panels
from proco_jax.report.scene import Recording, Scene, record_episode

BAD, GOOD = COLORS[1], COLORS[2]
# Face colour, opacity, whether square, and legend of each kind of thing.
LOOKS: dict[str, tuple[str, float, bool, str]] = {
    "hazards": (BAD, 0.35, False, "hazard"),
    "pillars": ("#555b66", 0.9, False, "pillar"),
    "vases": (COLORS[5], 0.9, True, "vase"),
    "gremlins": (COLORS[3], 0.95, True, "gremlin"),
    "buttons": ("#b9bec6", 0.9, False, "button"),
    "goal": (GOOD, 0.45, False, "goal"),
    "push_box": (COLORS[4], 0.9, True, "box to push"),
}


def render_episode(
    task: Task,
    act: Callable[..., Any],
    seed: int,
    path: Path,
    *,
    title: str = "",
    stride: int = 5,
    frames_per_second: int = 25,
) -> Path:
    """Plays one episode and writes it as an animated GIF.

    Navigation tasks are seen from above, velocity tasks from the side.

    Args:
      task: what to play.
      act: as for `evaluate_policies` with one policy and one world: `act(obs
        [1, 1, O], episode_seeds [1, 1], steps [1, 1]) -> actions [1, 1, A]`.
      seed: of the episode.
      path: ends in `.gif`; written as a whole or not at all.
      title: above the picture; empty for the task's name.
      stride: steps from one frame to the next.
      frames_per_second: of the animation.

    Raises:
      ValueError: if the path doesn't end in `.gif`.
      ImportError: if the simulator isn't installed.
    """
    if path.suffix != ".gif":
        raise ValueError(f"an episode is drawn as a GIF: found {path.name!r}, expected *.gif")
    recording = record_episode(task, act, seed, stride)
    return draw_recording(path, recording, title or task.name, frames_per_second)


def draw_recording(path: Path, recording: Recording, title: str, frames_per_second: int) -> Path:
    """Writes a recorded episode as an animated GIF."""
    frames = list(_frames(recording, title))
    # One palette for all frames: colors don't flicker and the file stays small.
    palette = frames[len(frames) // 2].quantize(64)
    small = [frame.quantize(64, palette=palette, dither=0) for frame in frames]
    # The last moment stays for two seconds.
    pauses = [1000 // frames_per_second] * (len(small) - 1) + [2000]
    write_atomic(
        path,
        lambda partial: small[0].save(
            partial, format="GIF", save_all=True, append_images=small[1:], duration=pauses, loop=0
        ),
    )
    return path


def _frames(recording: Recording, title: str) -> Iterator[Any]:
    """The frames as RGB images."""
    from PIL import Image

    figure, (axes,) = panels(1, 1, 4.6, 3.2 if recording.task.kind == "Velocity" else 5.2)
    figure.set_dpi(100)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_title(title, fontsize=9.5, color=INK, loc="left", pad=20)
    sideways = recording.task.kind == "Velocity"
    (_set_side_view if sideways else _set_plan_view)(axes, recording)
    draw = _draw_side_view if sideways else _draw_plan_view
    # What stands still is drawn once: a frame then takes milliseconds.
    figure.canvas.draw()
    still = figure.canvas.copy_from_bbox(figure.bbox)
    for i, scene in enumerate(recording.scenes):
        figure.canvas.restore_region(still)
        drawn = [*draw(axes, recording, i), _caption(axes, recording.task, scene)]
        for artist in sorted(drawn, key=lambda one: one.get_zorder()):
            axes.draw_artist(artist)
            artist.remove()
        yield Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def _caption(axes: Any, task: Task, scene: Scene) -> Any:
    text = f"step {scene.step}   return {scene.episode_return:.1f}   cost {scene.cost:g}"
    if task.kind == "Velocity":
        text += f"   speed {scene.robot[2]:.1f} m/s (limit {task.velocity_limit:.1f})"
    color = BAD if scene.violating else INK
    return axes.text(0.0, 1.015, text, transform=axes.transAxes, fontsize=8.5, color=color)


def _set_plan_view(axes: Any, recording: Recording) -> None:
    from matplotlib.patches import Circle, Patch

    scenes = recording.scenes
    points = [scene.robot[:2] for scene in scenes]
    points += [
        place[:2] for scene in scenes[:1] for rows in scene.places.values() for place in rows
    ]
    reach = max(recording.circle, 1.5, *(abs(x) for point in points for x in point)) + 0.35
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("x [m]", fontsize=8, color=INK)
    axes.set_ylabel("y [m]", fontsize=8, color=INK)
    keys = [Patch(fc=LOOKS[kind][0], alpha=LOOKS[kind][1], label=LOOKS[kind][3])
            for kind in scenes[0].places if kind in LOOKS]  # fmt: skip
    if recording.circle:
        axes.add_patch(Circle((0, 0), recording.circle, fill=False, ec=GOOD, lw=2))
        keys.append(Patch(fill=False, ec=GOOD, label="circle to run along"))
    for wall, line in zip(recording.walls, (axes.axvline, axes.axhline), strict=True):
        for place in () if wall is None else (-wall, wall):
            line(place, color=BAD, lw=1.5, ls=(0, (4, 3)))
    if recording.walls[0] is not None:
        keys.append(Patch(fill=False, ec=BAD, ls="--", label="border"))
    keys.append(Patch(fill=False, ec=BAD, lw=2, label="violation"))
    axes.legend(
        handles=keys, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=min(len(keys), 5),
        columnspacing=1.2, fontsize=7.5, frameon=False, labelcolor=INK,
    )  # fmt: skip


def _draw_plan_view(axes: Any, recording: Recording, index: int) -> list[Any]:
    from matplotlib.patches import Circle, Polygon

    scene, past = recording.scenes[index], recording.scenes[: index + 1]
    drawn: list[Any] = [
        axes.add_patch(
            _thing(kind, place, recording.sizes[kind], kind == "buttons" and i == scene.target)
        )
        for kind, places in scene.places.items()
        for i, place in enumerate(places)
    ]
    way = np.array([one.robot[:2] for one in past])
    drawn += axes.plot(*way.T, color=INK, lw=0.9, alpha=0.45, zorder=5)
    hurt = np.array([one.violating for one in past])
    drawn += axes.plot(*way[hurt].T, ".", color=BAD, ms=4, zorder=6)
    (x, y), angle = scene.robot[:2], scene.robot[2]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([[0.15, 0.0], [-0.1, 0.1], [-0.05, 0.0], [-0.1, -0.1]]) @ turn + [x, y]
    drawn.append(axes.add_patch(Polygon(corners, fc=INK, ec="white", lw=0.8, zorder=7)))
    if scene.violating:
        drawn.append(axes.add_patch(Circle((x, y), 0.24, fill=False, ec=BAD, lw=2.2, zorder=8)))
    return drawn


def _thing(kind: str, place: np.ndarray, size: float, target: bool) -> Any:
    """A patch; the button to press next is green."""
    from matplotlib.patches import Circle, Rectangle

    color, opacity, square, _ = LOOKS[kind]
    x, y, angle = place
    style: dict[str, Any] = {"fc": GOOD if target else color, "alpha": opacity, "lw": 0}
    style["zorder"] = 3 if kind in ("hazards", "goal") else 4
    if not square:
        return Circle((x, y), size, **style)
    corner = (x - size, y - size)
    degrees = float(np.degrees(angle))
    return Rectangle(corner, 2 * size, 2 * size, angle=degrees, rotation_point="center", **style)


def _set_side_view(axes: Any, recording: Recording) -> None:
    tops = [scene.bones[..., 1].max() for scene in recording.scenes]
    axes.set_xlim(-1.8, 1.8)
    axes.set_ylim(-0.15, max(*tops, 1.0) + 0.4)
    axes.axhline(0.0, color=PALE, lw=1)
    axes.set_xlabel("x from the torso [m]; ground marks every metre", fontsize=8, color=INK)
    axes.set_ylabel("height [m]", fontsize=8, color=INK)


def _draw_side_view(axes: Any, recording: Recording, index: int) -> list[Any]:
    from matplotlib.collections import LineCollection

    scene = recording.scenes[index]
    x = scene.robot[0]
    bones = scene.bones - np.array([x, 0.0])
    color = BAD if scene.violating else COLORS[0]
    lines = LineCollection(list(bones), colors=color, lw=5, capstyle="round", zorder=4)
    marks = np.arange(np.ceil(x - 1.8), np.floor(x + 1.8) + 1) - x
    ground = axes.plot(marks, np.zeros(len(marks)), "|", color=INK, ms=9)
    return [*ground, axes.add_collection(lines)]
