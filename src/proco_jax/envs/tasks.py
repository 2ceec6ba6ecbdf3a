"""The 21 Safety-Gymnasium tasks of DSRL: observations, reference returns and limits.

Reference returns, which normalize scores, and file names are those of DSRL
(Liu et al. 2024, "Datasets and Benchmarks for Offline Safe Reinforcement
Learning"). No simulator is needed here.
"""

import dataclasses
import difflib

import numpy as np

from proco_jax.envs.fields import navigation_fields, velocity_fields
from proco_jax.observation import ObservationSpec


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      name: e.g. `SafetyCarButton1`.
      env_id: the Gymnasium id, e.g. `SafetyCarButton1Gymnasium-v0`.
      robot: `Point`, `Car`, or the robot of a velocity task.
      kind: `Goal`, `Button`, `Push`, `Circle` or `Velocity`.
      level: 1 or 2; 1 for velocity tasks.
      episode_steps: the time limit.
      action_size: numbers in an action, each in [-1, 1].
      spec: the observation's fields.
      cost_limit: the cost of an episode that counts as 1 when normalized.
      reference_min: the return that normalizes to 0.
      reference_max: the return that normalizes to 1.
      dsrl_file: the name of DSRL's file of logs.
      velocity_limit: speed in m/s above which a step costs 1; NaN where there
        is none.
    """

    name: str
    env_id: str
    robot: str
    kind: str
    level: int
    episode_steps: int
    action_size: int
    spec: ObservationSpec
    cost_limit: float
    reference_min: float
    reference_max: float
    dsrl_file: str
    velocity_limit: float = float("nan")


def get_task(name: str) -> Task:
    """Finds a task by its name.

    Args:
      name: `SafetyCarButton1`, `CarButton1`, `SafetyCarButton1-v0` or the
        Gymnasium id, in any case.

    Raises:
      ValueError: for an unknown name, with the known tasks and the closest match.
    """
    key = name.split("-")[0].lower().removesuffix("gymnasium").removeprefix("safety")
    short = {task.removeprefix("Safety").lower(): task for task in TASKS}
    if key in short:
        return TASKS[short[key]]
    close = difflib.get_close_matches(key, short, n=1, cutoff=0.5)
    hint = f"; did you mean {short[close[0]]!r}?" if close else ""
    raise ValueError(f"no task {name!r}{hint}; the tasks are: {', '.join(TASKS)}")


def normalized_return(task: Task, episode_return: float | np.ndarray) -> float | np.ndarray:
    """DSRL's score: 0 at the task's reference minimum, 1 at its maximum."""
    return (episode_return - task.reference_min) / (task.reference_max - task.reference_min)


def normalized_cost(task: Task, episode_cost: float | np.ndarray) -> float | np.ndarray:
    """An episode's cost in units of the task's limit."""
    return episode_cost / task.cost_limit


# Name, DSRL's file after the environment id, reference minimum and maximum.
_NAVIGATION = (
    ("CarButton1", "250-2656", 0.0028926206826, 44.420003345738984),
    ("CarButton2", "300-3755", 0.001767391718, 41.99513815522894),
    ("CarCircle1", "250-1271", 8.03707, 24.94155502319336),
    ("CarCircle2", "400-940", 5.11339, 25.950098037719727),
    ("CarGoal1", "120-1671", 0.0122328, 39.907809198384705),
    ("CarGoal2", "200-4105", 0.00103287, 28.902897990056502),
    ("CarPush1", "200-2871", 0.0137002, 16.304467598905237),
    ("CarPush2", "250-4407", 0.000293911, 15.141648491514314),
    ("PointButton1", "200-2268", 0.00882211, 41.19301568767707),
    ("PointButton2", "250-3288", 0.0141142, 42.8985953616709),
    ("PointCircle1", "200-1098", 20.0676, 61.72819519042969),
    ("PointCircle2", "300-895", 20.4783, 54.02184295654297),
    ("PointGoal1", "100-2022", 0.0119601, 30.071114857340543),
    ("PointGoal2", "200-3442", 0.00261696, 27.717709787852737),
    ("PointPush1", "150-2379", 0.00140015, 16.518654299293367),
    ("PointPush2", "200-3242", 0.00124382, 14.691039145644403),
)

# The same for the velocity tasks, then actions and the limit on speed in m/s.
_VELOCITY = (
    ("Ant", "250-2249", 6.1519, 2976.276611328125, 8, 2.6222),
    ("HalfCheetah", "250-2495", 5.75098, 2806.93310546875, 6, 3.2096),
    ("Hopper", "250-2240", 37.0515, 1911.396728515625, 3, 0.7402),
    ("Swimmer", "200-1686", 0.0711446, 238.95831298828125, 2, 0.2282),
    ("Walker2d", "300-2729", 18.6685, 3418.223876953125, 6, 2.3415),
)


def _navigation_task(name: str, file: str, low: float, high: float) -> Task:
    robot = "Car" if name.startswith("Car") else "Point"
    kind, level = name[len(robot) : -1], int(name[-1])
    env_id = f"Safety{name}Gymnasium-v0"
    return Task(
        name=f"Safety{name}",
        env_id=env_id,
        robot=robot,
        kind=kind,
        level=level,
        episode_steps=500 if kind == "Circle" else 1000,
        action_size=2,
        spec=ObservationSpec(navigation_fields(robot, kind)),
        cost_limit=10.0,
        reference_min=low,
        reference_max=high,
        dsrl_file=f"{env_id}-{file}.hdf5",
    )


def _velocity_task(
    robot: str, file: str, low: float, high: float, action_size: int, limit: float
) -> Task:
    env_id = f"Safety{robot}VelocityGymnasium-v1"
    return Task(
        name=f"Safety{robot}Velocity",
        env_id=env_id,
        robot=robot,
        kind="Velocity",
        level=1,
        episode_steps=1000,
        action_size=action_size,
        spec=ObservationSpec(velocity_fields(robot)),
        cost_limit=10.0,
        reference_min=low,
        reference_max=high,
        dsrl_file=f"{env_id}-{file}.hdf5",
        velocity_limit=limit,
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(_navigation_task(*row) for row in _NAVIGATION),
        *(_velocity_task(*row) for row in _VELOCITY),
    )
}
