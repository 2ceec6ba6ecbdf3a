"""What a language model may answer, and how an answer is read. A reply is data."""

import json
import re
from typing import TypeVar

import pydantic

from proco_jax.knowledge.rules.syntax import MAX_LENGTH

Reply = TypeVar("Reply", bound=pydantic.BaseModel)

_LONGEST = 200_000


class ReplyError(ValueError):
    """A reply that cannot be used; the message tells the model why."""


class RuleReply(pydantic.BaseModel):
    """A rule in the expression language."""

    rule: str = pydantic.Field(min_length=1, max_length=MAX_LENGTH)
    explanation: str = pydantic.Field(default="", max_length=4000)


class StateLabel(pydantic.BaseModel):
    """The label of one state."""

    state: int
    unsafe: pydantic.StrictBool
    confidence: float = pydantic.Field(ge=0.0, le=1.0)


class StatesReply(pydantic.BaseModel):
    """The labels of all states asked about, in their order."""

    labels: list[StateLabel]


def read_reply(text: str, schema: type[Reply]) -> Reply:
    """Reads the JSON object in a reply.

    Raises:
      ReplyError: if there is none, or it is not what was asked for.
    """
    if len(text) > _LONGEST:
        raise ReplyError(f"the answer has {len(text)} characters, far more than was asked for")
    try:
        found = json.loads(_object(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ReplyError(f"the answer is no JSON object ({error})") from None
    try:
        return schema.model_validate(found)
    except pydantic.ValidationError as error:
        places = [
            f"{'.'.join(map(str, e['loc'])) or 'the object'}: {e['msg']}" for e in error.errors()
        ]
        raise ReplyError("the JSON is not as asked: " + "; ".join(places[:5])) from None


def check_count(reply: StatesReply, count: int) -> None:
    """Checks that every state is labelled once, in order.

    Raises:
      ReplyError: if not.
    """
    numbers = [label.state for label in reply.labels]
    if numbers != list(range(1, count + 1)):
        raise ReplyError(
            f"expected labels for the states 1 to {count}, each once and in order,"
            f" found {len(numbers)} labels for {numbers[:20]}"
        )


def _object(text: str) -> str:
    """The outermost braces: models like to wrap JSON in fences and pleasantries."""
    fenced = re.search(r"```(?:json)?\s*(\{.*\})\s*```", text, re.DOTALL)
    text = fenced[1] if fenced else text
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text
