"""Hand-written controllers that read the lidar and record logs without any training.

A controller sees the observation of a policy. Its direction is that of the
target minus `gain` times the obstacles nearer than a threshold. It turns in
proportion to the heading error and slows down when facing away; temporally
correlated noise adds exploration. The gains range from reckless to overcautious.

All functions take a batch `[N, ...]`; each row depends on its own observation,
seed and step only.
"""

import dataclasses

import numpy as np

from proco_jax.config.schema import CollectConfig
from proco_jax.envs.targets import forward_axis, heading_vector
from proco_jax.envs.tasks import Task

_NOISE_CORRELATION = 0.95
# Terminal speed in m/s at full force.
_POINT_TOP_SPEED = 1.5

_GAINS = {
    ("Goal", 2): (0.0, 1.0, 1.5, 2.0, 3.0, 3.0),
    ("Button", 1): (0.0, 1.0, 2.0, 2.0, 2.0, 3.0),
    ("Button", 2): (0.0, 1.0, 2.0, 2.0, 2.0, 3.0),
    ("Circle", 1): (0.0, 1.0, 1.5, 2.0, 3.0, 4.0),
    ("Circle", 2): (0.0, 1.0, 2.0, 2.0, 3.0, 4.0),
}


@dataclasses.dataclass(frozen=True)
class Controller:
    """The parameters of one controller.

    Attributes:
      gain: weight of the obstacles relative to the target.
      threshold: lidar closeness from which an obstacle is avoided.
      speed: share of a Point's top speed; a Car's largest forward action.
      noise: standard deviation of the action noise.
    """

    gain: float
    threshold: float
    speed: float
    noise: float


def draw_controller(task: Task, collect: CollectConfig, seed: int) -> Controller:
    """The controller of an episode: the same for the same task and seed.

    Successive seeds take successive gains, so that few episodes cover all of them;
    the other parameters are drawn.

    Raises:
      ValueError: if the task is not a Point or Car navigation task.
    """
    _check_task(task)
    rng = np.random.default_rng([seed, 0])
    return Controller(
        gain=float(collect.gains[seed % len(collect.gains)]),
        threshold=float(rng.uniform(*collect.threshold)),
        speed=float(rng.uniform(*collect.speed)),
        noise=float(rng.uniform(*collect.noise)),
    )


def default_collect(task: Task) -> CollectConfig:
    """A mixture for the task: all gains, the cautious ones more often where hazards are dense.

    Where `CollectConfig()` gives few violation-free episodes, reckless gains are
    drawn less often, but none is excluded.
    """
    collect = CollectConfig()
    gains = _GAINS.get((task.kind, task.level), collect.gains)
    if task.kind == "Button":
        # Gremlins and wrong buttons leave little space: avoid them from farther away.
        return dataclasses.replace(collect, gains=gains, threshold=(0.45, 0.65), noise=(0.05, 0.25))
    if task.kind == "Circle" and task.robot == "Point":
        # The reward on the circle is proportional to speed, and there are no obstacles.
        return dataclasses.replace(collect, gains=gains, speed=(0.5, 1.0))
    return dataclasses.replace(collect, gains=gains)


def draw_noise(task: Task, controller: Controller, seed: int) -> np.ndarray:
    """`[T, A]` float32 noise of a whole episode, correlated over about 20 steps."""
    rng = np.random.default_rng([seed, 1])
    noise = rng.normal(size=(task.episode_steps, task.action_size)).astype(np.float32)
    fresh = np.float32(np.sqrt(1 - _NOISE_CORRELATION**2))
    for t in range(1, len(noise)):
        noise[t] = _NOISE_CORRELATION * noise[t - 1] + fresh * noise[t]
    return np.float32(controller.noise) * noise


class ControllerMixture:
    """An `act` for `run_episodes` that draws a controller for every episode.

    Args:
      task: a Point or Car navigation task.
      collect: the distribution of the controllers.

    Raises:
      ValueError: if the task is not a Point or Car navigation task.
    """

    def __init__(self, task: Task, collect: CollectConfig) -> None:
        _check_task(task)
        self._task, self._collect = task, collect
        self._seeds = np.zeros(0, np.int64)
        self._parameters = np.zeros((0, 3))
        self._noise = np.zeros((0, task.episode_steps, task.action_size), np.float32)

    def __call__(self, obs: np.ndarray, seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Actions `[N, A]` in [-1, 1] for `obs [N, O]`, `seeds [N]`, `steps [N]`."""
        if len(seeds) != len(self._seeds):
            self._seeds = np.full(len(seeds), -1, np.int64)
            self._parameters = np.zeros((len(seeds), 3))
            self._noise = np.zeros((len(seeds), *self._noise.shape[1:]), np.float32)
        for row in np.flatnonzero(self._seeds != seeds):
            self._draw(int(row), int(seeds[row]))
        gain, threshold, speed = self._parameters.T
        actions = steer(self._task, obs, gain, threshold, speed)
        last = self._task.episode_steps - 1
        actions = actions + self._noise[np.arange(len(seeds)), np.minimum(steps, last)]
        return np.clip(actions, -1.0, 1.0).astype(np.float32)

    def _draw(self, row: int, seed: int) -> None:
        controller = draw_controller(self._task, self._collect, seed)
        self._seeds[row] = seed
        self._parameters[row] = controller.gain, controller.threshold, controller.speed
        self._noise[row] = draw_noise(self._task, controller, seed)


def steer(
    task: Task, obs: np.ndarray, gain: np.ndarray, threshold: np.ndarray, speed: np.ndarray
) -> np.ndarray:
    """The actions without noise.

    Args:
      task: a Point or Car navigation task.
      obs: `[N, O]` raw observations.
      gain, threshold, speed: `[N]` each, see `Controller`.

    Returns:
      `[N, 2]` actions in [-1, 1]: forward force and turn of a Point, left and
      right wheel of a Car.
    """
    fields = {name: obs[:, where] for name, where in task.spec.slices.items()}
    direction = heading_vector(task, fields, gain, threshold) / forward_axis(task)
    if task.robot == "Car":
        return _drive_car(direction, speed)
    velocity = fields["velocimeter"]
    return _drive_point(direction, velocity[:, 0] + 1j * velocity[:, 1], speed)


def _drive_point(direction: np.ndarray, velocity: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """A Point keeps its momentum, so its force follows the velocity error and also brakes."""
    slow = _POINT_TOP_SPEED * speed * np.minimum(np.abs(direction), 1.0)
    toward, gear = _forward_or_back(direction)
    turn = np.angle(slow * toward - 0.5 * gear * velocity)
    force = 2.0 * (gear * slow * np.maximum(np.real(toward), 0.0) - np.real(velocity))
    return np.clip(np.stack([force, turn], axis=1), -1.0, 1.0)


def _drive_car(direction: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """A Car stops at once, so its wheels follow the heading error only."""
    toward, gear = _forward_or_back(direction)
    forward = gear * speed * np.maximum(np.real(toward), 0.0)
    turn = np.clip(np.angle(toward), -1.0, 1.0)
    return np.clip(np.stack([forward + turn, forward - turn], axis=1), -1.0, 1.0)


def _forward_or_back(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drives backward from obstacles close ahead, instead of turning around first.

    Returns:
      The direction of the robot's leading end, complex `[N]` of length 1, and 1
      where it drives forward, -1 where backward.
    """
    gear = np.where((np.abs(direction) > 1.1) & (np.real(direction) < 0.0), -1.0, 1.0)
    return gear * direction / np.maximum(np.abs(direction), 1e-9), gear


def _check_task(task: Task) -> None:
    if task.kind == "Velocity":
        raise ValueError(
            f"no lidar controller for {task.name}, only for Point and Car navigation tasks: use "
            "--config.data.collect.behavior=policies, or --config.data.source=dsrl:<file or task> "
            "or minari:<id>"
        )
