"""The state of many worlds as arrays, for the rules of a task."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from proco_jax.envs.batched.worlds import NO_CONTACTS, Blueprint, World

BUTTON, GREMLIN, VASE, PILLAR = 1, 32, 33, 34
_CODES = {"button": BUTTON, "gremlin": GREMLIN, "vase": VASE, "pillar": PILLAR}


@dataclasses.dataclass
class Touches:
    """Contacts between an agent and an object that counts.

    Attributes:
      world: `[C]` which row.
      what: `[C]` `BUTTON + i` for button i, `GREMLIN`, `VASE` or `PILLAR`.
    """

    world: np.ndarray
    what: np.ndarray

    def any_of(self, worlds: int, chosen: np.ndarray) -> np.ndarray:
        """`[N]` bool: whether a world has a touch among the chosen `[C]` ones."""
        found = np.zeros(worlds, dtype=bool)
        found[self.world[chosen]] = True
        return found


class State:
    """The state of N worlds, refreshed from MuJoCo after every step.

    Attributes:
      xpos: `[N, bodies, 3]` positions of all bodies in meters.
      frame: `[N, 9]` rotation matrix of the agent, row by row.
      sensors: `[N, D]` what the sensors read.
      qvel: `[N, V]` velocities.
      layout: `[N, P, 2]` where things were placed, as the rule that places
        goals remembers it.
    """

    def __init__(self, blueprint: Blueprint, worlds: Sequence[World]):
        model = blueprint.model
        self.count = len(worlds)
        self.xpos = np.zeros((self.count, model.nbody, 3))
        self.frame = np.zeros((self.count, 9))
        self.sensors = np.zeros((self.count, model.nsensordata))
        self.qvel = np.zeros((self.count, model.nv))
        self.layout = np.zeros((self.count, len(blueprint.placements), 2))
        self.agent_body = model.body("agent").id
        self._worlds = worlds
        self._frames = [world.mat for world in worlds]
        self._sensors = [world.sensors for world in worlds]
        self._positions = [world.xpos for world in worlds]
        self._velocities = [world.qvel for world in worlds]
        self._code, self._is_agent = _geom_codes(blueprint)

    @property
    def agent(self) -> np.ndarray:
        """`[N, 3]` positions of the agents."""
        return self.xpos[:, self.agent_body]

    def refresh(self) -> None:
        """Reads positions, frames and velocities of all worlds."""
        np.concatenate(self._positions, out=self.xpos.reshape(-1, 3))
        np.concatenate(self._frames, out=self.frame.reshape(-1))
        np.concatenate(self._velocities, out=self.qvel.reshape(-1))

    def refresh_sensors(self) -> None:
        """Reads the sensors of all worlds."""
        np.concatenate(self._sensors, out=self.sensors.reshape(-1))

    def touches(self, rows: Sequence[int], of_cost: bool) -> Touches:
        """The contacts of the given rows that could matter, for the reward or for the cost."""
        worlds = [self._worlds[row] for row in rows]
        pairs = [world.contacts_of_cost if of_cost else world.contacts for world in worlds]
        g1 = np.concatenate([NO_CONTACTS[0], *(first for first, _ in pairs)])
        g2 = np.concatenate([NO_CONTACTS[1], *(second for _, second in pairs)])
        counted = np.flatnonzero(self._is_agent[g1] != self._is_agent[g2])
        owner = np.repeat(np.asarray(rows, dtype=np.intp), [len(first) for first, _ in pairs])
        what = self._code[g1[counted]] + self._code[g2[counted]]
        return Touches(owner[counted], what)


def _geom_codes(blueprint: Blueprint) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each geom, and whether it belongs to the agent."""
    model = blueprint.model
    names = [model.geom(i).name for i in range(model.ngeom)]
    own = set(blueprint.rules.agent.body_info.geom_names)
    code = np.zeros(model.ngeom, dtype=np.intp)
    for i, name in enumerate(names):
        for start, value in _CODES.items():
            if name.startswith(start):
                code[i] = value + (int(name[len(start) :]) if start == "button" else 0)
    return code, np.array([name in own for name in names])
