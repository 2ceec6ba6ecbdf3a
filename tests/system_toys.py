"""A pump described in a file of its own, and its logs as tables and episodes."""

from pathlib import Path

import numpy as np

from proco_jax.system.description import System, parse_system
from proco_jax.types import Episode

PUMP = """# Pump

## What is unsafe

The pressure must stay below 8 bar.

## Observation

| field | size | kind | unit | reach | meaning |
| --- | --- | --- | --- | --- | --- |
| pressure | 1 | flat | bar |  | Pressure behind the pump. |
| flow | 2 | flat | m/s |  | Flow in both pipes. |

## Action

| action | unit | low | high | meaning |
| --- | --- | --- | --- | --- |
| speed | 1/min | 0 | 3000 | Commanded speed. |
| valve | % | 0 | 100 | Commanded position of the valve. |

## System

| setting | value |
| --- | --- |
| step | 1 s |
| episode steps | 20 |
| cost limit | 2 |
| margin | 0.5 bar |

## Columns

| name | column |
| --- | --- |
| speed | Speed (1/min) |

## Rule

```rule
pressure >= 8 bar
```

## Provenance

Written by hand.
"""
HEADER = "episode,time,pressure,flow_0,flow_1,Speed (1/min),valve,reward"
ROWS = """\
a,0,1,0,0.5,0,50,0
a,1,2,1,0.5,3000,100,10
a,2,3,2,0.5,1500,0,20
b,7,4,3,0.5,1500,50,0
b,8,5,4,0.5,1500,50,30"""


def pump(**changes: str) -> System:
    """The pump, with texts of its description replaced."""
    text = PUMP
    for old, new in changes.items():
        text = replaced_once(text, old.replace("_", " "), new)
    return parse_system(text)


def replaced_once(text: str, old: str, new: str) -> str:
    """The text with the only occurrence of a part replaced."""
    assert text.count(old) == 1, old
    return text.replace(old, new)


def write_csv(folder: Path, rows: str = ROWS, header: str = HEADER) -> Path:
    """A CSV file of the pump."""
    path = folder / "logs.csv"
    path.write_text(f"{header}\n{rows}\n", encoding="utf-8")
    return path


def pump_episodes() -> list[Episode]:
    """What `ROWS` hold: actions scaled, rewards of the states that steps lead to."""
    a = Episode(
        np.array([[1, 0, 0.5], [2, 1, 0.5], [3, 2, 0.5]], np.float32),
        np.array([[-1, 0], [1, 1]], np.float32),
        np.array([10, 20], np.float32),
        np.zeros(2, np.float32),
        False,
    )
    b = Episode(
        np.array([[4, 3, 0.5], [5, 4, 0.5]], np.float32),
        np.array([[0, 0]], np.float32),
        np.array([30], np.float32),
        np.zeros(1, np.float32),
        False,
    )
    return [a, b]
