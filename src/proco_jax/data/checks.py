"""What an episode must be before anything learns from it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from proco_jax.types import Episode

# Actions this far outside [-1, 1] are rounding; beyond, the simulator clips them.
ROUNDING = 1e-3


class DataError(ValueError):
    """Data that cannot be used: what was found, what is expected, what to do."""


def to_episode(raw: Mapping[str, Any], where: str) -> Episode:
    """One checked episode from arrays as Minari stores them.

    Args:
      raw: `observations` `[T + 1, O]`, `actions` `[T, A]`, `rewards` `[T]`,
        `terminations` `[T]`, `truncations` `[T]`, and `cost`, `[T]` or, with
        an entry for the reset, `[T + 1]`.
      where: names the episode in errors.

    Returns:
      The episode, as float32.

    Raises:
      DataError: if lengths disagree, values are not finite, a cost is
        negative, or the episode goes on after a termination.
    """
    obs = _array(raw["observations"], 2, f"{where}: observations")
    action = _array(raw["actions"], 2, f"{where}: actions")
    reward = _array(raw["rewards"], 1, f"{where}: rewards")
    cost = _array(raw["cost"], 1, f"{where}: cost")
    terminated = np.asarray(raw["terminations"], dtype=bool)
    steps = len(reward)
    if len(cost) == steps + 1:
        cost = cost[1:]
    _check_lengths(
        where,
        steps,
        {
            "observations": len(obs) - 1,
            "actions": len(action),
            "cost": len(cost),
            "terminations": len(terminated),
            "truncations": len(raw["truncations"]),
        },
    )
    if (cost < 0).any():
        raise DataError(f"{where}: the cost goes down to {cost.min():g}, expected 0 or more")
    if terminated[:-1].any():
        step = int(np.argmax(terminated))
        raise DataError(
            f"{where}: terminates at step {step} of {steps} and goes on; "
            "split it into one episode for each termination"
        )
    return Episode(obs, action, reward, cost, bool(terminated[-1]))


def check_sizes(episode: Episode, obs_size: int, action_size: int | None, where: str) -> None:
    """Checks an episode's widths against what the run expects.

    Raises:
      DataError: if they differ.
    """
    found = episode.obs.shape[1]
    if found != obs_size:
        raise DataError(
            f"{where}: observations have {found} numbers, expected {obs_size}; "
            "is this data of another task?"
        )
    found = episode.action.shape[1]
    if action_size is not None and found != action_size:
        raise DataError(
            f"{where}: actions have {found} numbers, expected {action_size}; "
            "is this data of another task?"
        )


def clip_actions(episodes: list[Episode]) -> tuple[list[Episode], int]:
    """Actions clipped to [-1, 1], as the simulator does; how many lay clearly outside."""
    outside, clipped = 0, []
    for episode in episodes:
        magnitude = np.abs(episode.action)
        if magnitude.max() > 1:
            outside += int((magnitude > 1 + ROUNDING).any(axis=1).sum())
            episode = episode._replace(action=np.clip(episode.action, -1, 1))
        clipped.append(episode)
    return clipped, outside


def _array(values: Any, ndim: int, where: str) -> np.ndarray:
    """Float32 of the right rank, with no value that is not finite."""
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected an array of numbers, found {error}") from error
    if array.ndim != ndim:
        shape = "[steps, size]" if ndim == 2 else "[steps]"
        raise DataError(f"{where}: expected an array {shape}, found shape {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{where}: {int(bad.sum())} of {array.size} values are not finite, the first at "
            f"index {first}; repair or remove the episode"
        )
    return array


def _check_lengths(where: str, steps: int, found: dict[str, int]) -> None:
    if steps < 1:
        raise DataError(f"{where}: has no step")
    wrong = {name: length for name, length in found.items() if length != steps}
    if wrong:
        listed = ", ".join(f"{name} {length}" for name, length in wrong.items())
        raise DataError(
            f"{where}: lengths disagree: rewards {steps}, but {listed} "
            "(observations without the last one; cost without that of a reset)"
        )
