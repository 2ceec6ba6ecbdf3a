"""The picture of the cost network: where it predicts violations, and its calibration."""

from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.report.plot_style import (
    COLORS,
    DASHES,
    MUTED,
    TEXT,
    colorbar,
    label,
    legend,
    panels,
    save,
)

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

    The first panel is left out if distances or speeds are not known.

    Args:
      path: of the picture.
      distance: `[M]` distances from the boundary of the unsafe set, negative inside;
        NaN where no rule defines a distance.
      approach: `[M]` speed towards the nearest object in m/s; NaN where the
        observation does not contain it.
      probability: `[M]` predictions of the network.
      unsafe: `[M]` probability in the held-out labels.
      threshold: probability from which a state counts as unsafe.
      unit: of the distance.
    """
    known = np.isfinite(distance) & np.isfinite(approach)
    if known.sum() < _FEWEST:
        figure, axes = panels(1, 1, 4.0, 3.2)
    else:
        figure, axes = panels(1, 2, 8.0, 3.2)
        _draw_probability(
            figure, axes[0], distance[known], approach[known], probability[known], unit
        )
    _draw_reliability(axes[-1], probability, unsafe, threshold)
    return save(figure, path)


def reliability(
    probability: np.ndarray, unsafe: np.ndarray, bins: int = _RELIABILITY_BINS
) -> list[tuple[float, float, int]]:
    """Mean prediction, share labeled unsafe, and number of states, per bin of predictions.

    Empty bins are left out.
    """
    which = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        (float(probability[which == b].mean()), float(unsafe[which == b].mean()), int(n))
        for b, n in enumerate(np.bincount(which, minlength=bins))
        if n
    ]


def _draw_probability(
    figure: Any,
    axes: Any,
    distance: np.ndarray,
    approach: np.ndarray,
    probability: np.ndarray,
    unit: str,
) -> None:
    x, y = _edges(distance, 0.0, 0.9), _edges(approach, 0.005, 0.995)
    count, _, _ = np.histogram2d(distance, approach, (x, y))
    total, _, _ = np.histogram2d(distance, approach, (x, y), weights=probability)
    mean = np.where(count >= _FEWEST, total / np.maximum(count, 1), np.nan)
    mesh = axes.pcolormesh(x, y, mean.T, cmap="RdYlBu_r", vmin=0, vmax=1, rasterized=True)
    axes.axvline(0.0, color=TEXT, lw=1.0, ls=DASHES, label="boundary of the unsafe set")
    filled = np.flatnonzero(np.isfinite(mean).any(axis=1))
    if filled.size:
        axes.set_xlim(min(x[filled[0]], 0.0), max(x[filled[-1] + 1], 0.0))
    axes.grid(visible=False)
    axes.locator_params(axis="x", nbins=6)
    colorbar(figure, mesh, axes, "predicted unsafe probability")
    label(axes, f"distance from the unsafe set [{unit}]", "approach speed [m/s]")
    legend(axes, loc="lower left")


def _edges(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Edges of cells between two quantiles, widened a little so that no cell is empty."""
    start, end = float(np.quantile(values, low)), float(np.quantile(values, high))
    return np.linspace(start - 1e-3, end + 1e-3, _CELLS + 1)


def _draw_reliability(
    axes: Any, probability: np.ndarray, unsafe: np.ndarray, threshold: float
) -> None:
    rows = reliability(probability, unsafe)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1.0, ls=":", label="perfect calibration")
    axes.plot(
        [r[0] for r in rows],
        [r[1] for r in rows],
        color=COLORS[0],
        marker="o",
        ms=4,
        label="cost network",
    )
    axes.axvline(threshold, color=COLORS[1], lw=1.2, label=f"threshold {threshold:.2g}")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    label(axes, "predicted unsafe probability", "share labeled unsafe, held out")
    legend(axes, loc="best")
