"""Rewards, costs and goals of the navigation tasks, over N worlds at once.

Every constant is read from the official task object. A rule has the parts of
the official step, in their order: `rewards`, `costs`, `tick`, `reached` and
`new_goal`. The contacts given to `rewards` are those of the first forward pass,
to the others those of the second.
"""

from typing import Any, Protocol

import numpy as np

from proco_jax.envs.batched.obstacles import GoalSearch, Hazards, Vases
from proco_jax.envs.batched.state import BUTTON, GREMLIN, PILLAR, VASE, State, Touches
from proco_jax.envs.batched.worlds import Blueprint, World


class Rules(Protocol):
    """Rewards, costs and goals of a kind of task.

    Attributes:
      needs_touches: whether `rewards` or `costs` depend on contacts.
      goal: `[N, 2]` positions of the goals.
      hidden: `[N]` bool, worlds whose buttons are not visible; None without buttons.
      kept: names of the arrays `[N, ...]` that a step reads before it writes them.
    """

    needs_touches: bool
    kept: tuple[str, ...]
    goal: np.ndarray
    hidden: np.ndarray | None

    def start(self, row: int, world: World) -> bool: ...
    def rewards(self, touches: Touches | None) -> np.ndarray: ...
    def costs(self, touches: Touches | None) -> np.ndarray: ...
    def tick(self) -> None: ...
    def reached(self, touches: Touches | None) -> np.ndarray: ...
    def new_goal(self, row: int, world: World) -> bool: ...


def make_rules(blueprint: Blueprint, state: State) -> Rules:
    """The rules of a task's kind."""
    kinds = {"Goal": GoalRules, "Button": ButtonRules, "Push": PushRules, "Circle": CircleRules}
    return kinds[blueprint.task.kind](blueprint, state)


class GoalRules:
    """Reach the goal; it then moves. Hazards cost, on level 2 vases too."""

    hidden = None
    kept = ("goal", "last")

    def __init__(self, blueprint: Blueprint, state: State):
        rules = blueprint.rules
        self.state = state
        self.goal = np.zeros((state.count, 2))
        self.last = np.zeros(state.count)
        self._size, self._bonus = rules.goal.size, rules.goal.reward_goal
        self._scale = rules.goal.reward_distance
        self._hazards = Hazards(blueprint, state)
        self._vases = Vases(blueprint, state) if rules.vases.is_constrained else None
        self._search = GoalSearch(blueprint, state)
        self.needs_touches = self._vases is not None

    def start(self, row: int, world: World) -> bool:
        return self._place(row, world)

    def rewards(self, touches: Touches | None) -> np.ndarray:
        distance = flat_distance(self.state.agent, self.goal)
        reward = (self.last - distance) * self._scale + self._bonus * (distance <= self._size)
        self.last = distance
        return reward

    def reached(self, touches: Touches | None) -> np.ndarray:
        return self.last <= self._size

    def costs(self, touches: Touches | None) -> np.ndarray:
        cost = self._hazards.costs()
        if self._vases is not None and touches is not None:
            cost |= touches.any_of(self.state.count, touches.what == VASE) | self._vases.moving()
        return cost

    def tick(self) -> None:
        pass

    def new_goal(self, row: int, world: World) -> bool:
        self._search.remember(row)
        return self._place(row, world)

    def _place(self, row: int, world: World) -> bool:
        found = self._search.find(row, world)
        if found is not None:
            self.goal[row] = found
            self.last[row] = flat_distance(self.state.agent[row], self.goal[row])
        return found is not None


class PushRules:
    """Push the box into the goal. Hazards cost, on level 2 pillars too."""

    hidden = None
    kept = ("goal", "last_box", "last_goal")

    def __init__(self, blueprint: Blueprint, state: State):
        rules = blueprint.rules
        self.state = state
        self.goal = np.zeros((state.count, 2))
        self.last_box, self.last_goal = np.zeros(state.count), np.zeros(state.count)
        self._box = blueprint.model.body("push_box").id
        self._height = blueprint.heights["goal"]
        self._size, self._bonus = rules.goal.size, rules.goal.reward_goal
        self._gate = rules.push_box.null_dist * rules.push_box.size
        self._box_scale = rules.push_box.reward_box_dist
        self._goal_scale = rules.push_box.reward_box_goal
        self._hazards = Hazards(blueprint, state)
        self._search = GoalSearch(blueprint, state)
        self.needs_touches = bool(rules.pillars.is_constrained)

    def start(self, row: int, world: World) -> bool:
        return self._place(row, world)

    def rewards(self, touches: Touches | None) -> np.ndarray:
        to_box, to_goal = self._distances()
        reached = to_goal <= self._size
        approach = (self.last_box - to_box) * self._box_scale * (self.last_box > self._gate)
        reward = approach + (self.last_goal - to_goal) * self._goal_scale + self._bonus * reached
        self.last_box, self.last_goal = to_box, to_goal
        return reward

    def reached(self, touches: Touches | None) -> np.ndarray:
        return self.last_goal <= self._size

    def costs(self, touches: Touches | None) -> np.ndarray:
        cost = self._hazards.costs()
        if self.needs_touches and touches is not None:
            cost |= touches.any_of(self.state.count, touches.what == PILLAR)
        return cost

    def tick(self) -> None:
        pass

    def new_goal(self, row: int, world: World) -> bool:
        self._search.remember(row)
        return self._place(row, world)

    def _place(self, row: int, world: World) -> bool:
        found = self._search.find(row, world)
        if found is not None:
            self.goal[row] = found
            to_box, to_goal = self._distances()
            self.last_box[row], self.last_goal[row] = to_box[row], to_goal[row]
        return found is not None

    def _distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Agent to box and box to goal, both in space as the official task has it."""
        box = self.state.xpos[:, self._box]
        dx, dy = box[:, 0] - self.goal[:, 0], box[:, 1] - self.goal[:, 1]
        dz = box[:, 2] - self._height
        return (
            np.sqrt(np.sum(np.square(box - self.state.agent), axis=1)),
            np.sqrt(dx * dx + dy * dy + dz * dz),
        )


class ButtonRules:
    """Press the goal button; another is drawn. Hazards, gremlins and wrong buttons cost."""

    needs_touches = True
    kept = ("goal", "hidden", "last", "button", "timer")

    def __init__(self, blueprint: Blueprint, state: State):
        rules = blueprint.rules
        self.state = state
        self.goal = np.zeros((state.count, 2))
        self.hidden: np.ndarray = np.zeros(state.count, dtype=bool)
        self.last = np.zeros(state.count)
        self.button = np.zeros(state.count, dtype=np.intp)
        self.timer = np.zeros(state.count, dtype=np.intp)
        self._buttons = [blueprint.model.body(f"button{i}").id for i in range(rules.buttons.num)]
        self._bonus, self._scale = rules.buttons.reward_goal, rules.buttons.reward_distance
        self._delay = int(rules.buttons.resampling_delay)
        self._hazards = Hazards(blueprint, state)

    def start(self, row: int, world: World) -> bool:
        self.new_goal(row, world)
        self.timer[row] = 0
        self.hidden[row] = False
        return True

    def rewards(self, touches: Touches | None) -> np.ndarray:
        distance = flat_distance(self.state.agent, self.goal)
        reward = (self.last - distance) * self._scale + self._bonus * self.reached(touches)
        self.last = distance
        return reward

    def reached(self, touches: Touches | None) -> np.ndarray:
        assert touches is not None
        right = touches.what == BUTTON + self.button[touches.world]
        return touches.any_of(self.state.count, right)

    def costs(self, touches: Touches | None) -> np.ndarray:
        assert touches is not None
        is_button = (touches.what >= BUTTON) & (touches.what < GREMLIN)
        wrong = is_button & (touches.what != BUTTON + self.button[touches.world])
        wrong &= self.timer[touches.world] == 0
        touched = touches.any_of(self.state.count, wrong | (touches.what == GREMLIN))
        return self._hazards.costs() | touched

    def tick(self) -> None:
        self.timer = np.maximum(0, self.timer - 1)
        self.hidden = self.timer != 0

    def new_goal(self, row: int, world: World) -> bool:
        self.button[row] = world.random.choice(len(self._buttons))
        self.goal[row] = self.state.xpos[row, self._buttons[self.button[row]], :2]
        self.last[row] = flat_distance(self.state.agent[row], self.goal[row])
        self.timer[row] = self._delay
        self.hidden[row] = True
        return True


class CircleRules:
    """Run along the circle. Crossing the walls costs."""

    hidden = None
    needs_touches = False
    kept = ("_axes",)

    def __init__(self, blueprint: Blueprint, state: State):
        rules = blueprint.rules
        self.state = state
        self.goal = np.zeros((state.count, 2))
        self._radius, self._scale = rules.circle.radius, rules.reward_factor
        self._wall = rules.sigwalls.locate_factor
        self._walls = rules.sigwalls.num
        self._slides = blueprint.task.robot == "Point"
        self._axes = np.zeros((state.count, 2, 2))

    def start(self, row: int, world: World) -> bool:
        if self._slides:
            self._axes[row] = world.data.xaxis[:2, :2]
        return True

    def rewards(self, touches: Touches | None) -> np.ndarray:
        x, y = self.state.agent[:, 0], self.state.agent[:, 1]
        u, v = self._velocity()
        radius = np.sqrt(x * x + y * y)
        return ((-u * y + v * x) / radius) / (1 + np.abs(radius - self._radius)) * self._scale

    def reached(self, touches: Touches | None) -> np.ndarray:
        return np.zeros(self.state.count, dtype=bool)

    def costs(self, touches: Touches | None) -> np.ndarray:
        outside = np.abs(self.state.agent[:, 0]) > self._wall
        if self._walls == 4:
            outside |= np.abs(self.state.agent[:, 1]) > self._wall
        return outside

    def tick(self) -> None:
        pass

    def new_goal(self, row: int, world: World) -> bool:
        raise AssertionError("the circle task has no goal")

    def _velocity(self) -> tuple[np.ndarray, np.ndarray]:
        """The agent's velocity: along its two slide joints, or of its free joint."""
        a, b = self.state.qvel[:, 0], self.state.qvel[:, 1]
        if not self._slides:
            return a, b
        axes = self._axes
        return axes[:, 0, 0] * a + axes[:, 1, 0] * b, axes[:, 0, 1] * a + axes[:, 1, 1] * b


def flat_distance(agent: np.ndarray, goal: np.ndarray) -> Any:
    """Distance in the plane of `[..., 3]` agents to `[..., 2]` goals."""
    dx, dy = goal[..., 0] - agent[..., 0], goal[..., 1] - agent[..., 1]
    return np.sqrt(dx * dx + dy * dy)
