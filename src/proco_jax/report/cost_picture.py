"""The picture of the cost network: what it calls unsafe, and whether it means what it says."""

from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.report.plot_style import COLORS, INK, PALE, label, legend, panels, save

_CELLS = 40
_FEWEST = 3
_RELIABILITY_BINS = 10


def draw_cost(
    path: Path,
    distance: np.ndarray,
    approach: np.ndarray,
    probability: np.ndarray,
    unsafe: np.ndarray,
    threshold: float,
    unit: str = "m",
) -> Path:
    """Unsafe probability against distance and approach speed, and a reliability diagram.

    Args:
      path: of the picture.
      distance: `[M]` from the boundary of the knowledge, negative inside of the
        unsafe set; NaN where no rule tells it.
      approach: `[M]` speed towards the nearest object in m/s; NaN where the
        observation has none.
      probability: `[M]` what the network says.
      unsafe: `[M]` probability in the held-out labels.
      threshold: probability from which a state counts as unsafe.
      unit: of the distance.
    """
    figure, (field, calibration) = panels(1, 2, 7.6, 3.1)
    _draw_field(figure, field, distance, approach, probability, unit)
    _draw_reliability(calibration, probability, unsafe, threshold)
    return save(figure, path)


def reliability(
    probability: np.ndarray, unsafe: np.ndarray, bins: int = _RELIABILITY_BINS
) -> list[tuple[float, float, int]]:
    """Mean prediction, share that is labelled unsafe, and count, for each bin of predictions."""
    which = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        (float(probability[which == b].mean()), float(unsafe[which == b].mean()), int(n))
        for b, n in enumerate(np.bincount(which, minlength=bins))
        if n
    ]


def _draw_field(
    figure: Any,
    axes: Any,
    distance: np.ndarray,
    approach: np.ndarray,
    probability: np.ndarray,
    unit: str,
) -> None:
    known = np.isfinite(distance) & np.isfinite(approach)
    if known.sum() < _FEWEST:
        axes.text(0.5, 0.5, "no distance is known", ha="center", color=PALE)
        axes.set_axis_off()
        return
    distance, approach, probability = distance[known], approach[known], probability[known]
    x, y = _edges(distance, 0.0, 0.9), _edges(approach, 0.005, 0.995)
    count, _, _ = np.histogram2d(distance, approach, (x, y))
    total, _, _ = np.histogram2d(distance, approach, (x, y), weights=probability)
    mean = np.where(count >= _FEWEST, total / np.maximum(count, 1), np.nan)
    colors = axes.pcolormesh(x, y, mean.T, cmap="RdYlBu_r", vmin=0, vmax=1, rasterized=True)
    axes.axvline(0.0, color=INK, lw=1.0, ls="--", label="boundary of the knowledge")
    bar = figure.colorbar(colors, ax=axes)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("unsafe probability", fontsize=9, color=INK)
    label(axes, f"distance from the boundary [{unit}]", "approach speed [m/s]")
    legend(axes, loc="upper right")


def _edges(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges of cells between two quantiles, never of no width."""
    start, end = float(np.quantile(values, low)), float(np.quantile(values, high))
    return np.linspace(start - 1e-3, end + 1e-3, _CELLS + 1)


def _draw_reliability(
    axes: Any, probability: np.ndarray, unsafe: np.ndarray, threshold: float
) -> None:
    rows = reliability(probability, unsafe)
    axes.plot([0, 1], [0, 1], color=PALE, lw=1.0, ls=":", label="says what it means")
    axes.plot(
        [r[0] for r in rows],
        [r[1] for r in rows],
        color=COLORS[0],
        marker="o",
        ms=4,
        label="network",
    )
    axes.axvline(threshold, color=COLORS[1], lw=1.2, label=f"threshold {threshold:.2g}")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    label(axes, "unsafe probability of the network", "share labelled unsafe, held out")
    legend(axes, loc="upper left")
