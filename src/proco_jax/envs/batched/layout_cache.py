"""Layouts by seed, drawn on demand or in advance by a background thread."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from proco_jax.envs.batched.layout import sample_layout
from proco_jax.envs.batched.worlds import Blueprint


class Drawn(NamedTuple):
    """The random draws at the start of an episode.

    Attributes:
      layout: position of every placed object.
      rotations: `[R]` angles in the order of `Blueprint.rotated`.
      random: state of the world's random generator after these draws.
    """

    layout: dict[str, tuple[float, float]]
    rotations: np.ndarray
    random: Any


def draw(plan: Blueprint, seed: int) -> Drawn:
    """The official draws of an episode's start."""
    random = np.random.RandomState(seed)
    layout = sample_layout(random, plan.placements)
    rotations = random.uniform(0, 2 * np.pi, size=len(plan.rotated))
    return Drawn(layout, rotations, random.get_state())


class Layouts:
    """Draws the starts of episodes, on demand or in advance."""

    def __init__(self, plan: Blueprint):
        self._plan = plan
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[Drawn]] = {}

    def prepare(self, seeds: Sequence[int]) -> None:
        """Draws for these seeds in the background; earlier ones are forgotten."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "layouts")
        before = self._ahead
        self._ahead = {
            seed: before.get(seed) or self._pool.submit(draw, self._plan, seed) for seed in seeds
        }
        for seed in before.keys() - self._ahead.keys():
            before[seed].cancel()

    def take(self, seed: int) -> Drawn:
        """The draws of a seed; those made in advance stay available to other worlds."""
        future = self._ahead.get(seed)
        return draw(self._plan, seed) if future is None else future.result()

    def close(self) -> None:
        """Ends the thread; may be called twice."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._ahead = {}
