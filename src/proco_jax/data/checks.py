"""Checks of logged episodes before they are used."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from proco_jax.types import Episode

# Actions up to this far outside of [-1, 1] are attributed to rounding and not counted.
ROUNDING = 1e-3
# NumPy's kinds of booleans, integers and floating-point numbers.
REAL_KINDS = "biuf"


class DataError(ValueError):
    """Unusable data; the message states what was found, what is expected, and a remedy."""


def to_episode(raw: Mapping[str, Any], where: str) -> Episode:
    """Checks the arrays of one episode, as Minari stores them, and converts them to float32.

    Args:
      raw: `observations` `[T + 1, O]`, `actions` `[T, A]`, `rewards` `[T]`,
        `terminations` `[T]`, `truncations` `[T]`, and `cost`, `[T]` or, with
        an entry for the reset, `[T + 1]`.
      where: name of the episode for errors.

    Raises:
      DataError: if lengths disagree, values are not real and finite numbers,
        flags are not 0 or 1, a cost is negative, or the episode continues after
        a termination.
    """
    obs = _array(raw["observations"], 2, f"{where}: observations")
    action = _array(raw["actions"], 2, f"{where}: actions")
    reward = _array(raw["rewards"], 1, f"{where}: rewards")
    cost = _array(raw["cost"], 1, f"{where}: cost")
    terminated = to_flags(raw["terminations"], f"{where}: terminations")
    truncated = to_flags(raw["truncations"], f"{where}: truncations")
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
            "truncations": len(truncated),
        },
    )
    if (cost < 0).any():
        raise DataError(f"{where}: the smallest cost is {cost.min():g}, expected 0 or more")
    for flags, ends in ((terminated, "terminates"), (truncated, "is truncated")):
        if flags[:-1].any():
            step = int(np.argmax(flags))
            raise DataError(
                f"{where}: {ends} at step {step} of {steps} and continues; "
                "split it into one episode per end"
            )
    return Episode(obs, action, reward, cost, bool(terminated[-1]))


def to_flags(values: Any, where: str) -> np.ndarray:
    """A vector of zeros and ones as `[T]` bool.

    Raises:
      DataError: if it is anything else.
    """
    array = np.asarray(values)
    if array.dtype.kind not in REAL_KINDS or array.ndim != 1:
        raise DataError(
            f"{where} must be 0 or 1, one per step; found the type {array.dtype} and the shape "
            f"{array.shape}"
        )
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        step = int(np.argmax(wrong))
        raise DataError(f"{where} must be 0 or 1, found {array[step]} at step {step}")
    return array.astype(bool)


def check_sizes(episode: Episode, obs_size: int, action_size: int | None, where: str) -> None:
    """Checks the sizes of an episode's observations and actions.

    Args:
      action_size: expected A; None for any.
      where: name of the episode for errors.

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
    """Clips actions to [-1, 1], as the simulator does; also counts the steps clearly outside."""
    outside, clipped = 0, []
    for episode in episodes:
        magnitude = np.abs(episode.action)
        if magnitude.max() > 1:
            outside += int((magnitude > 1 + ROUNDING).any(axis=1).sum())
            episode = episode._replace(action=np.clip(episode.action, -1, 1))
        clipped.append(episode)
    return clipped, outside


def truncate_at_limit(
    episodes: list[Episode], limit: int | None
) -> tuple[list[Episode], int, int | None]:
    """Marks episodes that terminate at the time limit as truncated.

    Args:
      episodes: of one task.
      limit: time limit of the task. It is unknown if None, or if the logs
        were recorded with a shorter one; it is then the longest length, if all
        episodes terminate, and at least half of them, and no fewer than three,
        have that length.

    Returns:
      The episodes, the number of those changed, and the limit (None if unknown).
    """
    lengths = [len(e.reward) for e in episodes]
    if all(e.terminated for e in episodes) and lengths.count(max(lengths)) >= max(
        3, len(lengths) / 2
    ):
        limit = max(lengths)
    changed = [e.terminated and len(e.reward) == limit for e in episodes]
    relabeled = [
        e._replace(terminated=False) if at_limit else e
        for e, at_limit in zip(episodes, changed, strict=True)
    ]
    return relabeled, sum(changed), limit


def _array(values: Any, ndim: int, where: str) -> np.ndarray:
    """The values as a finite float32 array of that rank."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected an array of numbers, found {error}") from error
    if array.dtype.kind not in REAL_KINDS:
        raise DataError(
            f"{where}: expected an array of numbers, found the type {array.dtype}, not real numbers"
        )
    # Numbers beyond float32 become infinite and are reported as such.
    with np.errstate(over="ignore", invalid="ignore"):
        array = array.astype(np.float32, copy=False)
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
        raise DataError(f"{where}: has no steps, expected at least 1")
    wrong = {name: length for name, length in found.items() if length != steps}
    if wrong:
        listed = ", ".join(f"{name} {length}" for name, length in wrong.items())
        raise DataError(
            f"{where}: lengths disagree: rewards {steps}, but {listed} "
            "(not counting the final observation and the cost of a reset)"
        )
