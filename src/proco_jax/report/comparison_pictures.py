"""The pictures of a comparison beside the return-cost one: gains, improvement, profiles."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proco_jax.common.statistics import Interval
from proco_jax.evaluation.results import AUGMENTATIONS
from proco_jax.report.comparison import AXES, Setting, main_gains, setting_of
from proco_jax.report.plot_style import (
    COLORS,
    DASHES,
    GRID,
    MUTED,
    SHIELD_LINES,
    SHIELD_NAMES,
    TEXT,
    error_bar,
    figure_title,
    label,
    legend_below,
    note,
    panels,
    save,
)
from proco_jax.report.tables import setting_title

# As in the return-cost picture, from the plain policy to the one with knowledge.
_AUGMENTATION_COLORS = {
    name: COLORS[AUGMENTATIONS.index(name)] for name in ("none", "control", "proco")
}
_PROFILE_AXES = {
    "cost": ("cost / cost limit", "share of episodes\nup to x"),
    "return": ("normalized return", "share of episodes\nfrom x on"),
}


def gains_picture(path: Path, gains: Sequence[Mapping[str, Any]], setting: Setting) -> Path:
    """Differences in mean cost and in mean return for each algorithm, with 95% intervals.

    Args:
      path: of the picture.
      gains: of the content of a comparison.
      setting: whose gains are drawn.
    """
    mine = [gain for gain in gains if setting_of(gain) == setting]
    algorithms = sorted({gain["algorithm"] for gain in mine}, reverse=True)
    places = {name: i for i, name in enumerate(algorithms)}
    height = 1.1 + 0.27 * max(len(algorithms), 3)
    figure, axes = panels(2, len(AXES), 9.6, 2 * height, sharey=True)
    for row, quantity in enumerate(("cost", "return")):
        for column, axis in enumerate(AXES):
            one = axes[row * len(AXES) + column]
            shown = main_gains([gain for gain in mine if gain["axis"] == axis])
            title = _axis_title(axis, shown) if row == 0 else ""
            _draw_differences(one, places, shown, quantity)
            label(one, f"difference in mean {quantity}", "", title)
    logs = f"{setting.regime} logs", f"cost limit {setting.cost_limit:g}"
    figure_title(figure, setting_title(setting.run, setting.task, *logs))
    return save(figure, path)


def improvement_picture(path: Path, entries: Sequence[Mapping[str, Any]], title: str) -> Path:
    """Probabilities of improvement of PROCO over no augmentation and over its control.

    Args:
      path: of the picture.
      entries: of `improvement` of one setting.
      title: above the panels.
    """
    from matplotlib.lines import Line2D

    algorithms = sorted({entry["algorithm"] for entry in entries}, reverse=True)
    places = {name: i for i, name in enumerate(algorithms)}
    baselines = [
        name for name in ("none", "control") if any(e["baseline"] == name for e in entries)
    ]
    figure, axes = panels(1, 2, 7.6, 1.2 + 0.32 * max(len(algorithms), 3), sharey=True)
    for one, (quantity, words) in zip(
        axes, (("cost", "P(lower cost)"), ("return", "P(higher return)")), strict=True
    ):
        _rows_axis(one, places)
        one.axvline(0.5, color=TEXT, lw=1.0, ls=DASHES, zorder=2)
        one.set_xlim(-0.03, 1.03)
        for i, baseline in enumerate(baselines):
            offset = 0.14 * (1 - 2 * i) if len(baselines) > 1 else 0.0
            for entry in entries:
                if entry["shield"] == "none" and entry["baseline"] == baseline:
                    place = places[entry["algorithm"]] + offset
                    _draw_interval(one, place, entry[quantity], _AUGMENTATION_COLORS[baseline])
        label(one, words, "")
    handles = [
        Line2D([], [], color=_AUGMENTATION_COLORS[name], marker="o", label=f"proco over {name}")
        for name in baselines
    ]
    legend_below(figure, handles, 2)
    figure_title(figure, title)
    return save(figure, path)


def profiles_picture(path: Path, profile: Mapping[str, Any], quantity: str) -> Path:
    """The performance profile of every policy: a panel for each algorithm.

    Args:
      path: of the picture.
      profile: an entry of `profiles`.
      quantity: `cost` (share of episodes up to a normalized cost) or `return` (share of episodes
        from a normalized return on).
    """
    from matplotlib.lines import Line2D

    drawn = [one for one in profile["policies"] if one[quantity] is not None]
    algorithms = sorted({one["algorithm"] for one in drawn})
    shields = _two_shields({one["shield"] for one in drawn})
    columns = min(4, len(algorithms))
    rows = -(-len(algorithms) // columns)
    figure, axes = panels(
        rows, columns, max(2.4 * columns + 0.4, 4.4), 2.1 * rows + 0.9, sharex=True, sharey=True
    )
    x = profile[f"{quantity}_thresholds"]
    words, share = _PROFILE_AXES[quantity]
    for i, (one, algorithm) in enumerate(zip(axes, algorithms, strict=False)):
        for policy in drawn:
            if policy["algorithm"] == algorithm and policy["shield"] in shields:
                _draw_profile(one, x, policy[quantity], policy["augmentation"], policy["shield"])
        if quantity == "cost":
            one.set_xscale("symlog", linthresh=0.1, linscale=0.3)
            ticks = [tick for tick in (0, 0.1, 1, 10, 100) if tick <= max(x)]
            one.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            one.minorticks_off()
            one.axvline(1.0, color=TEXT, lw=1.0, ls=DASHES, zorder=2)
        one.set_ylim(-0.03, 1.03)
        lowest, leftmost = i + columns >= len(algorithms), i % columns == 0
        label(one, words if lowest else "", share if leftmost else "", algorithm)
        one.tick_params(labelbottom=lowest)
    for one in axes[len(algorithms) :]:
        one.set_visible(False)
    names = [name for name in _AUGMENTATION_COLORS if any(p["augmentation"] == name for p in drawn)]
    handles = [
        Line2D([], [], color=_AUGMENTATION_COLORS[name], lw=3, label=f"augmentation {name}")
        for name in names
    ]
    handles += [
        Line2D([], [], color=TEXT, ls=SHIELD_LINES[name], label=SHIELD_NAMES[name])
        for name in shields
    ]
    legend_below(figure, handles, len(handles) if columns > 2 else 2)
    figure_title(figure, profile["run"])
    return save(figure, path)


def _axis_title(axis: str, gains: Sequence[Mapping[str, Any]]) -> str:
    if not gains:
        return f"{axis.capitalize()}\n"
    policy, baseline = gains[0]["policy"], gains[0]["baseline"]
    key, rest = "augmentation", "no shield"
    if axis == "shield":
        key, rest = "shield", f"trained with {policy['augmentation']}"
    return f"{axis.capitalize()}: {policy[key]} - {baseline[key]},\n{rest}"


def _draw_differences(
    axes: Any,
    places: Mapping[str, int],
    gains: Sequence[Mapping[str, Any]],
    quantity: str,
) -> None:
    _rows_axis(axes, places)
    axes.axvline(0.0, color=TEXT, lw=1.0, ls=DASHES, zorder=2)
    axes.locator_params(axis="x", nbins=5)
    for gain in gains:
        _draw_interval(axes, places[gain["algorithm"]], gain[quantity], TEXT)
    if all(gain[quantity] is None for gain in gains):
        axes.set_xticks([0.0])
        note(axes, "not measured")


def _rows_axis(axes: Any, places: Mapping[str, int]) -> None:
    """A row for each name."""
    axes.set_yticks(list(places.values()), list(places))
    axes.set_ylim(-0.6, len(places) - 0.4)
    axes.grid(axis="x", color=GRID, lw=0.6)
    axes.tick_params(axis="y", length=0)


def _draw_interval(
    axes: Any, place: float, interval: Mapping[str, float] | None, color: str
) -> None:
    if interval is None:
        # At the left edge, wherever the other intervals are.
        edge = axes.get_yaxis_transform()
        axes.plot([0.03], [place], ls="", marker="x", ms=4, color=MUTED, transform=edge)
        return
    bar = error_bar(Interval(**interval))
    axes.errorbar(interval["point"], place, xerr=bar, fmt="o", ms=5, color=color, elinewidth=1.4)


def _two_shields(present: set[str]) -> list[str]:
    """No shield and the strongest one: more lines would hide each other."""
    return [name for name in ("none", "planner", "filter") if name in present][:2]


def _draw_profile(
    axes: Any, x: Sequence[float], profile: Mapping[str, Any], augmentation: str, shield: str
) -> None:
    color = _AUGMENTATION_COLORS[augmentation]
    axes.plot(x, profile["point"], color=color, ls=SHIELD_LINES[shield], lw=1.5, zorder=4)
    if shield == "none":
        axes.fill_between(x, profile["low"], profile["high"], color=color, alpha=0.13, lw=0)
