"""A buffer tank with a slow inlet valve, and the logs of the people who run it by hand.

    python experiments/own_system/tank_env.py tank_logs.csv

The reward is the outflow, which grows with the level. After the command to close, the valve lets so
much flow in that a tank well below its limit may overflow: it is safe, but no longer controllable.
"""

import csv
import sys
from typing import Any

import gymnasium
import numpy as np

LIMIT, TOP = 1.8, 2.2  # Level in m from which it is unsafe, and at which the tank is full.
LAG, INFLOW, OUTFLOW = 0.12, 0.17, 0.045  # Per step: of the way of the valve, m, and m.
STEPS, BATCHES, HELD = 60, 120, 12


class Tank(gymnasium.Env):
    """Observes level (m), valve (%) and demand; the action is the commanded valve (%)."""

    observation_space = gymnasium.spaces.Box(0.0, 100.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(0.0, 100.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.level, self.valve, self.demand = self.np_random.uniform((0.3, 0, 0.7), (1.0, 40, 1.3))
        self.step_number = 0
        return self._observed(), {}

    def step(self, action: np.ndarray) -> Any:
        self.valve += LAG * (float(np.clip(action[0], 0, 100)) - self.valve)
        outflow = OUTFLOW * self.demand * np.sqrt(self.level)
        self.level = float(np.clip(self.level + INFLOW * self.valve / 100 - outflow, 0.0, TOP))
        drift = 0.02 * (1 - self.demand) + 0.02 * self.np_random.normal()
        self.demand = float(np.clip(self.demand + drift, 0.6, 1.4))
        self.step_number += 1
        cost = {"cost": float(self.level > LIMIT)}
        return self._observed(), float(outflow), False, self.step_number >= STEPS, cost

    def _observed(self) -> np.ndarray:
        return np.array([self.level, self.valve, self.demand], np.float32)


def make_logs(path: str, seed: int = 0) -> None:
    """Batches run by hand: a command is held for a while. Batches with an overflow are left out."""
    tank, rng, batch = Tank(), np.random.default_rng(seed), 0
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["batch", "time", "level", "valve", "demand", "command", "outflow"])
        while batch < BATCHES:
            obs, _ = tank.reset(seed=int(rng.integers(2**31)))
            command, gained, rows, overflow = rng.uniform(0, 100), 0.0, [], False
            for step in range(STEPS + 1):
                if rng.random() < 1 / HELD:
                    command = rng.uniform(0, 100)
                texts = [f"{x:.4f}" for x in (*obs[:1], *obs[1:], command, gained)]
                rows.append([batch, 10 * step, *texts])
                obs, gained, _, _, info = tank.step(np.array([command]))
                overflow |= info["cost"] > 0 and step < STEPS
            if not overflow:
                writer.writerows(rows)
                batch += 1


if __name__ == "__main__":
    make_logs(sys.argv[1])
