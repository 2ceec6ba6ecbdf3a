"""The description of a system of the user's own, in one Markdown file.

It is a knowledge file (`knowledge/files.py`) with further sections:

    # Pump
    ## What is unsafe      free text, for people and language models
    ## Observation         a table of the fields: field, size, kind, unit, reach, meaning
    ## Action              a table of the actions: action, unit, low, high, meaning
    ## System              a table of settings: setting, value (see `SETTINGS`)
    ## Columns             a table of names: name, column; only for names that differ (optional)
    ## Reward              an expression in the language of rules, in a code block (optional)
    ## Rule                what is unsafe as a rule, in a code block (optional)
    ## Provenance          who wrote the rule, and from which sources (required with a rule)
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from proco_jax.common.shipped import find_shipped
from proco_jax.config.schema import Config, replaced
from proco_jax.envs.tasks import Task, get_task
from proco_jax.knowledge.files import (
    NAME,
    Knowledge,
    KnowledgeError,
    code_block,
    parse_knowledge,
    read_sections,
    table_rows,
)
from proco_jax.observation import ObservationSpec
from proco_jax.rules.rule import Quantity, parse_quantity
from proco_jax.rules.syntax import RuleError
from proco_jax.rules.units import PLAIN, SEVERAL, own_symbols, parse_unit, show

SETTINGS = {
    "step": "length of a step with its unit of time, such as 1 s",
    "episode steps": "steps after which an episode ends",
    "cost limit": "violations per episode that are acceptable, above 0",
    "margin": "optional: how much wider than the rule unsafe states are labeled, with the unit",
    "reward and cost of": "optional: `state` or `step`, see docs/own_system.md",
}
STATE, STEP = "state", "step"
# Names of the columns of a table of logs that are neither observed nor acted.
ROLES = ("episode", "time", "reward", "cost", "terminated")
# What a draft leaves open.
OPEN = "TO FILL IN"
_ACTION_COLUMNS = ("action", "unit", "low", "high", "meaning")


@dataclasses.dataclass(frozen=True)
class ActionField:
    """One number of an action.

    Attributes:
      name: as the user names it.
      unit: of the limits and of the logs.
      low: smallest value, which is -1 inside.
      high: largest value, which is 1 inside.
      meaning: one plain sentence.
    """

    name: str
    unit: str
    low: float
    high: float
    meaning: str


@dataclasses.dataclass(frozen=True)
class System:
    """A described system.

    Attributes:
      knowledge: name, words, fields of the observation, and rule.
      actions: numbers of an action, in order.
      step_s: length of a step in seconds.
      episode_steps: the time limit of an episode.
      cost_limit: cost per episode that is acceptable.
      margin: of the labels, in the base unit of the rule; None for that of the config.
      of_step: whether reward and cost in a row of a log belong to the step that starts there;
        otherwise to the state in the row.
      columns: columns of a log by the names that they have here.
      reward: expression of the state that a step leads to; None for the rewards of the logs.
    """

    knowledge: Knowledge
    actions: tuple[ActionField, ...]
    step_s: float
    episode_steps: int
    cost_limit: float
    margin: float | None
    of_step: bool
    columns: dict[str, str]
    reward: Quantity | None

    @property
    def name(self) -> str:
        """The heading of the description."""
        return self.knowledge.name

    @property
    def observation(self) -> ObservationSpec:
        """The fields of an observation."""
        return self.knowledge.spec

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest action, each `[A]`."""
        low, high = zip(*((a.low, a.high) for a in self.actions), strict=True)
        return np.array(low, np.float64), np.array(high, np.float64)

    def scale(self, action: np.ndarray) -> np.ndarray:
        """Actions `[..., A]` in the system's units to [-1, 1]."""
        low, high = self.limits
        return 2.0 * (np.asarray(action, np.float64) - low) / (high - low) - 1.0

    def unscale(self, action: np.ndarray) -> np.ndarray:
        """Actions `[..., A]` in [-1, 1] to the system's units."""
        low, high = self.limits
        return low + (np.asarray(action, np.float64) + 1.0) / 2.0 * (high - low)

    def observed(self) -> list[str]:
        """Names of the numbers of an observation, `[O]`."""
        return self.observation.names

    def column(self, name: str) -> str:
        """The column of a log that holds what has this name here."""
        return self.columns.get(name, name)

    def task(self) -> Task:
        """The system as a task. Its returns have no reference, so they normalize to themselves."""
        return Task(
            name=self.name,
            env_id=f"{re.sub('[^A-Za-z0-9]', '', self.name) or 'System'}-v0",
            robot="",
            kind="System",
            level=1,
            episode_steps=self.episode_steps,
            action_size=len(self.actions),
            spec=self.observation,
            cost_limit=self.cost_limit,
            reference_min=0.0,
            reference_max=1.0,
            dsrl_file="",
        )


def system_of(config: Config) -> System | None:
    """The system that a config names; None if it names a task of Safety-Gymnasium.

    Raises:
      KnowledgeError: as `load_system`.
    """
    return load_system(config.system.file) if config.system.file else None


def task_of(config: Config) -> Task:
    """The task of a config: its system of the user's own, or one of Safety-Gymnasium.

    Raises:
      ValueError: if there is no such task, or the description cannot be used.
    """
    system = system_of(config)
    return get_task(config.task) if system is None else system.task()


def with_system(config: Config) -> Config:
    """The config with what the description of its system decides.

    These are the name of the task, the cost limit unless the config states another than its
    default, and the margin of the labels likewise. Other configs are returned as they are.
    """
    system = system_of(config)
    if system is None:
        return config
    settings: dict[str, Any] = {"task": system.name}
    defaults = Config()
    if config.cost_limit == defaults.cost_limit:
        settings["cost_limit"] = system.cost_limit
    if system.margin is not None and config.cost.margin == defaults.cost.margin:
        settings["cost.margin"] = system.margin
    return replaced(config, settings)


def load_system(path: str | Path) -> System:
    """Reads and checks the description of a system.

    Raises:
      KnowledgeError: if there is no such file, or something in it is missing or wrong.
    """
    path = find_shipped(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KnowledgeError(
            f"cannot read the description --config.system.file={path}: {error}; "
            "python -m proco_jax.describe drafts one from logs"
        ) from None
    try:
        return parse_system(text)
    except (KnowledgeError, RuleError) as error:
        raise KnowledgeError(f"{path}: {error}") from None


def parse_system(text: str) -> System:
    """`load_system` for the text of a file.

    Raises:
      KnowledgeError, RuleError: naming the section and what is wrong in it.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if OPEN in line:
            raise KnowledgeError(f"line {number} is not filled in yet: {line.strip()}")
    _, sections = read_sections(text)
    if missing := [name for name in ("Action", "System") if not sections.get(name)]:
        raise KnowledgeError(f"the section '## {missing[0]}' is missing or empty")
    knowledge = parse_knowledge(text)
    actions = _actions(sections["Action"])
    settings = _settings(sections["System"])
    reward = code_block(sections.get("Reward", ""), "Reward")
    system = System(
        knowledge,
        actions,
        _amount("step", settings["step"], "s"),
        _steps(settings["episode steps"]),
        _positive("cost limit", settings["cost limit"]),
        _margin(settings, knowledge),
        _convention(settings.get("reward and cost of", STATE)),
        {},
        parse_quantity(reward, knowledge.spec) if reward else None,
    )
    names = [*system.observed(), *(a.name for a in actions), *ROLES]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise KnowledgeError(
            f"{', '.join(twice)}: fields, actions and {', '.join(ROLES)} need distinct names"
        )
    return dataclasses.replace(system, columns=_columns(sections.get("Columns", ""), names))


def _rows(section: str, title: str, columns: tuple[str, ...]) -> list[list[str]]:
    rows = table_rows(section, title, columns)
    names = [row[0] for row in rows]
    if len(set(names)) < len(names):
        raise KnowledgeError(f"'## {title}': {columns[0]} names must be distinct, found {names}")
    return rows


def _actions(section: str) -> tuple[ActionField, ...]:
    actions = []
    for name, unit, low, high, meaning in _rows(section, "Action", _ACTION_COLUMNS):
        if not NAME.fullmatch(name):
            raise KnowledgeError(
                f"'## Action': {name!r} is no name: use letters, digits and underscores"
            )
        least, most = (_number(f"'## Action': {name}", text) for text in (low, high))
        if not least < most:
            raise KnowledgeError(
                f"'## Action': {name} needs a low below its high, found {low} and {high}"
            )
        actions.append(ActionField(name, unit, least, most, meaning))
    return tuple(actions)


def _settings(section: str) -> dict[str, str]:
    settings = dict(_rows(section, "System", ("setting", "value")))
    listed = "; ".join(f"{name} ({meaning})" for name, meaning in SETTINGS.items())
    if unknown := [name for name in settings if name not in SETTINGS]:
        raise KnowledgeError(f"'## System': no setting {unknown[0]!r}; there are {listed}")
    for name in ("step", "episode steps", "cost limit"):
        if name not in settings:
            raise KnowledgeError(f"'## System': {name!r} is missing; the settings are {listed}")
    return settings


def _columns(section: str, names: list[str]) -> dict[str, str]:
    if not section:
        return {}
    columns = dict(_rows(section, "Columns", ("name", "column")))
    if unknown := [name for name in columns if name not in names]:
        raise KnowledgeError(f"'## Columns': no name {unknown[0]!r}; there are {', '.join(names)}")
    return columns


def _margin(settings: dict[str, str], knowledge: Knowledge) -> float | None:
    if "margin" not in settings:
        return None
    if knowledge.rule is None or knowledge.rule.unit in (show(PLAIN), show(SEVERAL)):
        return _positive("margin", settings["margin"])
    own = own_symbols(f.unit for f in knowledge.spec.fields)
    return _amount("margin", settings["margin"], knowledge.rule.unit, own)


def _convention(value: str) -> bool:
    if value not in (STATE, STEP):
        raise KnowledgeError(
            f"'## System': 'reward and cost of' is {STATE} or {STEP}, found {value!r}"
        )
    return value == STEP


def _amount(name: str, text: str, unit: str, own: Iterable[str] = ()) -> float:
    """A positive number with a unit of the same dimension as `unit`, in base units."""
    number, _, given = text.partition(" ")
    where = f"'## System': {name}"
    try:
        found = parse_unit(given.strip(), own)
        expected = parse_unit(unit, own)
    except ValueError as error:
        raise KnowledgeError(f"{where}: found {text!r}: {error}") from None
    if found.dimension != expected.dimension:
        raise KnowledgeError(f"{where}: found {text!r}, expected a number in {unit}, like 1 {unit}")
    return _positive(name, number) * found.factor


def _steps(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise KnowledgeError(f"'## System': episode steps: found {text!r}, expected a whole number")
    return int(text)


def _positive(name: str, text: str) -> float:
    value = _number(f"'## System': {name}", text)
    if value <= 0:
        raise KnowledgeError(f"'## System': {name}: found {text!r}, expected a number above 0")
    return value


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise KnowledgeError(f"{where}: found {text!r}, expected a number")
    return value
