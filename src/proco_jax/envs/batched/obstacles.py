"""Hazards, vases, and the search for the position of a new goal."""

import numpy as np

from proco_jax.envs.batched.layout import sample_goal
from proco_jax.envs.batched.state import State
from proco_jax.envs.batched.worlds import Blueprint, World


class Hazards:
    """Circles on the floor that cost when the agent's center is inside."""

    def __init__(self, blueprint: Blueprint, state: State):
        names = [placement.name for placement in blueprint.placements]
        self._state = state
        self._at = [i for i, name in enumerate(names) if name.startswith("hazard")]
        self._size = blueprint.rules.hazards.size

    def costs(self) -> np.ndarray:
        """`[N]` bool."""
        agent = self._state.agent
        hazards = self._state.layout[:, self._at]
        dx, dy = hazards[:, :, 0] - agent[:, :1], hazards[:, :, 1] - agent[:, 1:2]
        return (self._size - np.sqrt(dx * dx + dy * dy) > 0).any(axis=1)


class Vases:
    """Boxes that cost when they move."""

    def __init__(self, blueprint: Blueprint, state: State):
        model, vases = blueprint.model, blueprint.rules.vases
        joints = [model.joint(f"vase{i}").dofadr[0] for i in range(vases.num)]
        self._state = state
        self._dofs = np.array(joints)[:, None] + np.arange(3)
        self._threshold = vases.velocity_threshold

    def moving(self) -> np.ndarray:
        """`[N]` bool."""
        speed = np.sqrt(np.sum(np.square(self._state.qvel[:, self._dofs]), axis=2))
        return (speed >= self._threshold).any(axis=1)


class GoalSearch:
    """Draws new goals at a distance from all other objects."""

    def __init__(self, blueprint: Blueprint, state: State):
        placements = blueprint.placements
        names = [placement.name for placement in placements]
        goal = names.index("goal")
        present = {blueprint.model.body(i).name: i for i in range(blueprint.model.nbody)}
        self._state = state
        self._goal = placements[goal]
        self._others = [i for i in range(len(names)) if i != goal]
        self._keepouts = np.array([placements[i].keepout for i in self._others])
        # Objects without a body of their own never move.
        self._tracked = [i for i in self._others if names[i] in present]
        self._bodies = [present[names[i]] for i in self._tracked]

    def remember(self, row: int) -> None:
        """Stores the current positions of all objects."""
        self._state.layout[row, self._tracked] = self._state.xpos[row, self._bodies, :2]

    def find(self, row: int, world: World) -> tuple[float, float] | None:
        """A new position; None if no free one was found."""
        others = self._state.layout[row, self._others]
        return sample_goal(world.random, self._goal, others, self._keepouts)
