"""Recorded replies of a large language model: its rules for every task that the package ships.

`experiments/knowledge/recorded_rules.jsonl` holds one JSON object per task: its name, the version
of the prompt, the messages that the model received, and its replies to them. The model received
nothing but these messages, and answered each time in a single attempt.
"""

import dataclasses
import json

from proco_jax.common.shipped import shipped_experiments
from proco_jax.knowledge.files import Knowledge, KnowledgeError, load_knowledge
from proco_jax.knowledge.prompts import Messages, field_table, plain

RECORDED_FILE = "recorded_rules.jsonl"


@dataclasses.dataclass(frozen=True)
class RecordedReplies:
    """What a language model answered to the rule question of one task.

    Attributes:
      prompt_version: version of the prompt at that time.
      messages: the messages that the model received.
      replies: the text of its independent replies, one per vote.
    """

    prompt_version: str
    messages: Messages
    replies: tuple[str, ...]


def recorded_replies(knowledge: Knowledge) -> RecordedReplies:
    """The recorded replies for a knowledge file.

    They are looked up by the name of the file, not by the prompt, so that a new version of the
    prompt does not discard them. The knowledge text and the fields must be those that the model
    was shown.

    Raises:
      KnowledgeError: if nothing was recorded for this name, text or fields, or the record cannot
        be read.
    """
    records = _records()
    if knowledge.name not in records:
        raise KnowledgeError(
            f"no replies are recorded for {knowledge.name!r}; there are replies for"
            f" {', '.join(sorted(records))}; use --config.knowledge.model=shipped, or the name of"
            " a language model"
        )
    found = records[knowledge.name]
    changed = _changed(found, knowledge)
    if changed:
        raise KnowledgeError(
            f"the replies recorded for {knowledge.name!r} answer a different"
            f" {' and '.join(changed)}; ask a language model with --config.knowledge.model=NAME"
        )
    return found


def find_recorded(knowledge: Knowledge) -> RecordedReplies | None:
    """The recorded replies for a knowledge file; None if it is not one that the package ships.

    The model was shown the text and the fields. A rule in the file that is not the shipped one is
    its author's statement of what is unsafe, so it counts as another file too.

    Raises:
      KnowledgeError: if the record cannot be read.
    """
    found = _records().get(knowledge.name)
    if found is None or _changed(found, knowledge) or _has_own_rule(knowledge):
        return None
    return found


def _has_own_rule(knowledge: Knowledge) -> bool:
    """Whether the file has a rule that is not the shipped one of its name."""
    if knowledge.rule is None:
        return False
    return knowledge.rule != load_knowledge(knowledge.name, knowledge.spec).rule


def _records() -> dict[str, RecordedReplies]:
    path = shipped_experiments() / "knowledge" / RECORDED_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {row["task"]: _read(row) for row in map(json.loads, lines)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KnowledgeError(f"cannot read the recorded replies in {path}: {error!r}") from None


def _changed(found: RecordedReplies, knowledge: Knowledge) -> list[str]:
    """What the model was shown otherwise."""
    shown = found.messages[-1]["content"]
    parts = {
        "knowledge text": f"<knowledge>\n{plain(knowledge.text)}\n</knowledge>",
        "fields": f"<observation>\n{field_table(knowledge.spec)}\n</observation>",
    }
    return [name for name, part in parts.items() if part not in shown]


def _read(row: dict) -> RecordedReplies:
    return RecordedReplies(row["prompt_version"], row["messages"], tuple(row["replies"]))
