"""Which units of a sweep a process takes: its share, by index and count."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Share(NamedTuple):
    """Share `index` of `count`, and where the two were found."""

    index: int
    count: int
    source: str = "--shard"


# Index, count, and for arrays that do not begin at 0 the first index; the first present counts.
_VARIABLES = (
    ("SKYPILOT_JOB_RANK", "SKYPILOT_NUM_JOBS", ""),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", ""),
    ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT", ""),
)


def take_share(units: Sequence[T], share: Share) -> list[T]:
    """Every `count`-th unit, from the `index`-th on. The shares of all indices are all units."""
    return list(units[share.index :: share.count])


def find_share(flag: str, environment: Mapping[str, str]) -> Share:
    """The share of this process.

    Args:
      flag: `i/n` with i from 0 to n - 1; empty for what the environment says.
      environment: of which the first present of these pairs counts: SKYPILOT_JOB_RANK and
        SKYPILOT_NUM_JOBS, SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, JOB_COMPLETION_INDEX and
        JOB_COMPLETIONS (which the job's file must set), CLOUD_RUN_TASK_INDEX and
        CLOUD_RUN_TASK_COUNT.

    Returns:
      The share; all units where neither says anything.

    Raises:
      ValueError: if the flag is malformed, or an index has no count, or is not below it.
    """
    if flag:
        index, slash, count = flag.partition("/")
        if not slash:
            raise ValueError(f"--shard: found {flag!r}, expected i/n, e.g. 0/4 for the first of 4")
        return _share(index, count, "--shard", "--shard")
    for index_name, count_name, first_name in _VARIABLES:
        if index_name not in environment:
            continue
        if count_name not in environment:
            raise ValueError(
                f"found {index_name} without {count_name}; set it to the number of jobs, or give "
                "--shard=i/n"
            )
        first = environment.get(first_name, "0") if first_name else "0"
        return _share(
            environment[index_name], environment[count_name], index_name, first_name, first
        )
    return Share(0, 1, "")


def _share(index: str, count: str, source: str, first_name: str, first: str = "0") -> Share:
    try:
        found = Share(int(index) - int(first), int(count), source)
    except ValueError:
        raise ValueError(
            f"{source}: found index {index!r} of {count!r}, expected whole numbers"
        ) from None
    if not 0 <= found.index < found.count:
        origin = f" (from {first_name}={first})" if first != "0" else ""
        raise ValueError(
            f"{source}: found index {index} of {count}{origin}, expected one from 0 to count - 1; "
            "an array of jobs must have steps of 1"
        )
    return found
