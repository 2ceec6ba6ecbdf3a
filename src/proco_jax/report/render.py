"""Episodes as animated GIFs, drawn from the simulator's positions.

MuJoCo's camera needs EGL or OSMesa, which many machines lack. A plan view needs
neither, and also shows the unsafe regions, the path so far and its violations.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.files import write_atomic
from proco_jax.envs.tasks import Task
from proco_jax.evaluation.episodes import Player
from proco_jax.report.plot_style import COLORS, MUTED, TEXT, panels
from proco_jax.report.scene import Recording, Scene, record_episode

UNSAFE, GOAL = COLORS[1], COLORS[2]
# Face color, opacity, whether square, and legend of each kind of object.
_OBJECTS: dict[str, tuple[str, float, bool, str]] = {
    "hazards": (UNSAFE, 0.35, False, "hazard"),
    "pillars": ("#555b66", 0.9, False, "pillar"),
    "vases": (COLORS[5], 0.9, True, "vase"),
    "gremlins": (COLORS[3], 0.95, True, "gremlin"),
    "buttons": ("#b9bec6", 0.9, False, "button"),
    "goal": (GOAL, 0.45, False, "goal"),
    "push_box": (COLORS[4], 0.9, True, "box to push"),
}


def render_episode(
    task: Task,
    player: Player,
    seed: int,
    path: Path,
    *,
    title: str = "",
    stride: int = 5,
    frames_per_second: int = 25,
) -> Path:
    """Runs one episode and writes it as an animated GIF.

    Navigation tasks are drawn from above, velocity tasks from the side.

    Args:
      task: the task.
      player: of one policy.
      seed: of the episode.
      path: ends in `.gif`; written atomically.
      title: above the picture; empty for the task's name.
      stride: steps between two frames.
      frames_per_second: of the animation.

    Raises:
      ValueError: if the path does not end in `.gif`.
      ImportError: if the simulator is not installed.
    """
    if path.suffix != ".gif":
        raise ValueError(f"episodes are written as GIFs: found {path.name!r}, expected *.gif")
    recording = record_episode(task, player, seed, stride)
    return draw_recording(path, recording, title or task.name, frames_per_second)


def draw_recording(path: Path, recording: Recording, title: str, frames_per_second: int) -> Path:
    """Writes a recorded episode as an animated GIF."""
    frames = list(_frames(recording, title))
    # One palette for all frames avoids flicker and keeps the file small.
    palette = frames[len(frames) // 2].quantize(64)
    small = [frame.quantize(64, palette=palette, dither=0) for frame in frames]
    # The last frame stays for two seconds.
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
    axes.set_title(title, fontsize=9.5, color=TEXT, loc="left", pad=20)
    sideways = recording.task.kind == "Velocity"
    (_set_side_view if sideways else _set_plan_view)(axes, recording)
    draw = _draw_side_view if sideways else _draw_plan_view
    # The background is drawn once, so that a frame takes milliseconds.
    figure.canvas.draw()
    background = figure.canvas.copy_from_bbox(figure.bbox)
    for i, scene in enumerate(recording.scenes):
        figure.canvas.restore_region(background)
        drawn = [*draw(axes, recording, i), _caption(axes, recording.task, scene)]
        for artist in sorted(drawn, key=lambda one: one.get_zorder()):
            axes.draw_artist(artist)
            artist.remove()
        yield Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def _caption(axes: Any, task: Task, scene: Scene) -> Any:
    text = f"step {scene.step}   return {scene.episode_return:.1f}   cost {scene.cost:g}"
    if task.kind == "Velocity":
        text += f"   speed {scene.robot[2]:.1f} m/s (limit {task.velocity_limit:.1f})"
    color = UNSAFE if scene.violating else TEXT
    return axes.text(0.0, 1.015, text, transform=axes.transAxes, fontsize=8.5, color=color)


def _set_plan_view(axes: Any, recording: Recording) -> None:
    from matplotlib.patches import Circle, Patch

    scenes = recording.scenes
    points = [scene.robot[:2] for scene in scenes]
    points += [
        pose[:2] for scene in scenes[:1] for poses in scene.objects.values() for pose in poses
    ]
    reach = max(recording.circle, 1.5, *(abs(x) for point in points for x in point)) + 0.35
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("x [m]", fontsize=8, color=TEXT)
    axes.set_ylabel("y [m]", fontsize=8, color=TEXT)
    keys = [Patch(fc=_OBJECTS[kind][0], alpha=_OBJECTS[kind][1], label=_OBJECTS[kind][3])
            for kind in scenes[0].objects if kind in _OBJECTS]  # fmt: skip
    if recording.circle:
        axes.add_patch(Circle((0, 0), recording.circle, fill=False, ec=GOAL, lw=2))
        keys.append(Patch(fill=False, ec=GOAL, label="circle to run along"))
    for wall, line in zip(recording.walls, (axes.axvline, axes.axhline), strict=True):
        for position in () if wall is None else (-wall, wall):
            line(position, color=UNSAFE, lw=1.5, ls=(0, (4, 3)))
    if recording.walls[0] is not None:
        keys.append(Patch(fill=False, ec=UNSAFE, ls="--", label="border"))
    keys.append(Patch(fill=False, ec=UNSAFE, lw=2, label="violation"))
    axes.legend(
        handles=keys, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=min(len(keys), 5),
        columnspacing=1.2, fontsize=7.5, frameon=False, labelcolor=TEXT,
    )  # fmt: skip


def _draw_plan_view(axes: Any, recording: Recording, index: int) -> list[Any]:
    from matplotlib.patches import Circle, Polygon

    scene, past = recording.scenes[index], recording.scenes[: index + 1]
    drawn: list[Any] = [
        axes.add_patch(
            _object(kind, pose, recording.sizes[kind], kind == "buttons" and i == scene.target)
        )
        for kind, poses in scene.objects.items()
        for i, pose in enumerate(poses)
    ]
    path = np.array([one.robot[:2] for one in past])
    drawn += axes.plot(*path.T, color=TEXT, lw=0.9, alpha=0.45, zorder=5)
    violating = np.array([one.violating for one in past])
    drawn += axes.plot(*path[violating].T, ".", color=UNSAFE, ms=4, zorder=6)
    (x, y), angle = scene.robot[:2], scene.robot[2]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([[0.15, 0.0], [-0.1, 0.1], [-0.05, 0.0], [-0.1, -0.1]]) @ turn + [x, y]
    drawn.append(axes.add_patch(Polygon(corners, fc=TEXT, ec="white", lw=0.8, zorder=7)))
    if scene.violating:
        drawn.append(axes.add_patch(Circle((x, y), 0.24, fill=False, ec=UNSAFE, lw=2.2, zorder=8)))
    return drawn


def _object(kind: str, pose: np.ndarray, size: float, target: bool) -> Any:
    """A patch; the button to press is green."""
    from matplotlib.patches import Circle, Rectangle

    color, opacity, square, _ = _OBJECTS[kind]
    x, y, angle = pose
    style: dict[str, Any] = {"fc": GOAL if target else color, "alpha": opacity, "lw": 0}
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
    axes.axhline(0.0, color=MUTED, lw=1)
    axes.set_xlabel("x relative to the torso [m]; ground marks every meter", fontsize=8, color=TEXT)
    axes.set_ylabel("height [m]", fontsize=8, color=TEXT)


def _draw_side_view(axes: Any, recording: Recording, index: int) -> list[Any]:
    from matplotlib.collections import LineCollection

    scene = recording.scenes[index]
    x = scene.robot[0]
    bones = scene.bones - np.array([x, 0.0])
    color = UNSAFE if scene.violating else COLORS[0]
    lines = LineCollection(list(bones), colors=color, lw=5, capstyle="round", zorder=4)
    marks = np.arange(np.ceil(x - 1.8), np.floor(x + 1.8) + 1) - x
    ground = axes.plot(marks, np.zeros(len(marks)), "|", color=TEXT, ms=9)
    return [*ground, axes.add_collection(lines)]
