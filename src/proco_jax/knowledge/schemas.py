"""Schemas of the replies of a language model, and how a reply is parsed. A reply is only data."""

import json
from typing import TypeVar

import pydantic

from proco_jax.rules.syntax import MAX_LENGTH

Reply = TypeVar("Reply", bound=pydantic.BaseModel)

_LONGEST = 200_000
# Places at which an object may start, so that no text takes long to read.
_MOST_BRACES = 10_000


class ReplyError(ValueError):
    """A reply that cannot be used; the message tells the model why."""


class RuleReply(pydantic.BaseModel):
    """A rule in the expression language."""

    rule: str = pydantic.Field(min_length=1, max_length=MAX_LENGTH)
    explanation: str | None = pydantic.Field(default=None, max_length=4000)


class StateLabel(pydantic.BaseModel):
    """The label of one state."""

    state: int
    unsafe: pydantic.StrictBool
    confidence: float = pydantic.Field(ge=0.0, le=1.0)


class StatesReply(pydantic.BaseModel):
    """The labels of all states asked about, in their order."""

    labels: list[StateLabel]


def read_reply(text: str, schema: type[Reply]) -> Reply:
    """Reads the last complete JSON object in a reply that is as asked.

    Models wrap the object in prose and code fences, repeat it, or write down their reasoning
    first; what stands before `</think>` is no answer.

    Raises:
      ReplyError: if there is none, or none that fits the schema.
    """
    if len(text) > _LONGEST:
        raise ReplyError(f"the answer has more than {_LONGEST} characters, far too many")
    thoughts_end = text.rfind("</think>")
    answer: Reply | None = None
    problem, start, outer_end = "", -1, 0
    for _ in range(_MOST_BRACES):
        start = text.find("{", start + 1)
        if start < 0:
            break
        try:
            found, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if end <= thoughts_end:
            continue
        try:
            answer = schema.model_validate(found)
            start = end - 1
        except pydantic.ValidationError as error:
            # The parts of an object that is not as asked are no separate mistakes.
            problem = _places(error) if start >= outer_end else problem
        outer_end = max(outer_end, end)
    if answer is None:
        raise ReplyError(problem or "the answer holds no complete JSON object")
    return answer


def check_count(reply: StatesReply, count: int) -> None:
    """Checks that every state is labeled once, in order.

    Raises:
      ReplyError: if not.
    """
    numbers = [label.state for label in reply.labels]
    if numbers != list(range(1, count + 1)):
        raise ReplyError(
            f"expected labels for the states 1 to {count}, each once and in order,"
            f" found {len(numbers)} labels for {numbers[:20]}"
        )


def _places(error: pydantic.ValidationError) -> str:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    places = [f"{'.'.join(map(str, e['loc'])) or 'the object'}: {e['msg']}" for e in errors]
    return "the JSON is not as asked: " + "; ".join(places[:5])
