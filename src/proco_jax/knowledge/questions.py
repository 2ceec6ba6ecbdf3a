"""Questions to a language model: cached, validated, repeated with the reason, within a budget."""

import asyncio
import dataclasses
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pydantic

from proco_jax.config.schema import KnowledgeConfig
from proco_jax.knowledge import llm_client
from proco_jax.knowledge.cache import ReplyCache, content_key
from proco_jax.knowledge.labelers import Usage
from proco_jax.knowledge.llm_client import ModelError, RawReply, TransientError
from proco_jax.knowledge.prompts import PROMPT_VERSION, Messages, again
from proco_jax.knowledge.schemas import ReplyError, read_reply
from proco_jax.rules.syntax import RuleError

_CHARACTERS_A_TOKEN = 3.5
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Question:
    """One question to a model.

    Attributes:
      messages: as prompts.py makes them.
      schema: what the answer must be.
      accept: turns a valid answer into the result; raises ReplyError or
        RuleError with the reason if it cannot be used.
      vote: tells apart independent answers to the same question.
      expected_tokens: tokens of a long answer, for the forecast of the price.
    """

    messages: Messages
    schema: type[pydantic.BaseModel]
    accept: Callable[[Any], Any]
    vote: int
    expected_tokens: int


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The expected cost of questions.

    Attributes:
      calls: those that the cache doesn't answer, one call each.
      cached: those that it does.
      usd: their price with answers of full length; None where none is known.
    """

    calls: int
    cached: int
    usd: float | None


class BudgetError(ModelError):
    """The questions would exceed the budget."""


class _Exhausted(Exception):
    """The answer ended before it began; asking again would end in the same way."""


class _Spent(Exception):
    """The budget does not cover another call."""


class Asker:
    """Calls a model and keeps account of the calls.

    Attributes:
      usage: what was asked so far.
      unanswered: questions that got no usable answer.
      problems: the last reason of each of these, without secrets.
    """

    def __init__(
        self, config: KnowledgeConfig, cache: ReplyCache, first_wait_s: float = _FIRST_WAIT_S
    ) -> None:
        self._config = config
        self._cache = cache
        self._first_wait_s = first_wait_s
        self._reserved_usd = 0.0
        self._unsupported: set[str] = set()
        self.usage = Usage()
        self.unanswered = 0
        self.problems: list[str] = []

    def forecast(self, questions: Sequence[Question]) -> Forecast:
        """The expected cost of these questions, before any call."""
        new = [q for q in questions if self._cache.get(self._first_key(q)) is None]
        prices = [self._worst_price(q.messages, q) for q in new]
        known = [p for p in prices if p is not None]
        usd = math.fsum(known) if len(known) == len(prices) else None
        return Forecast(len(new), len(questions) - len(new), usd)

    def add_recorded(
        self, question: Question, reply: str, messages: Messages, version: str
    ) -> None:
        """Caches a reply that was recorded elsewhere as the answer to a question.

        Args:
          question: the question that it answers.
          reply: its text.
          messages: what the model was really shown, kept as provenance.
          version: version of the prompt that made these messages.
        """
        key = self._first_key(question)
        if (self._cache.get(key) or {}).get("reply") == reply:
            return
        record = {"key": key, "model": self._config.model, "prompt_version": version}
        record |= {"schema": question.schema.__name__, "vote": question.vote, "attempt": 0}
        self._cache.put(record | {"messages": messages, "reply": reply, "finish": "stop"})

    def check_budget(self, forecast: Forecast) -> None:
        """Checks that the budget covers questions.

        Raises:
          BudgetError: saying what they need and what there is.
        """
        c, usd = self._config, forecast.usd or 0.0
        calls = self.usage.calls + forecast.calls
        if calls > c.budget_calls:
            raise BudgetError(
                f"{calls} calls are needed, --config.knowledge.budget_calls={c.budget_calls} are"
                " allowed; raise it, or lower knowledge.states, votes or rounds"
            )
        if self.usage.usd + usd > c.budget_usd:
            raise BudgetError(
                f"up to {self.usage.usd + usd:.2f} USD are needed,"
                f" --config.knowledge.budget_usd={c.budget_usd:g} are allowed; raise it, or lower"
                " knowledge.states, votes or rounds"
            )

    def ask(self, questions: Sequence[Question]) -> list[Any]:
        """The accepted answer to each question; None if there was none.

        Replies come from the cache where it has them. A reply that cannot be
        used is returned to the model with the reason, until the attempts or the budget are
        exhausted.

        Raises:
          ModelError: if the model cannot be asked at all.
        """
        return asyncio.run(self._all(questions))

    async def _all(self, questions: Sequence[Question]) -> list[Any]:
        limit = asyncio.Semaphore(self._config.concurrency)
        tasks = [asyncio.create_task(self._one(q, limit)) for q in questions]
        paid = self.usage.calls
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.usage.calls > paid:
                await llm_client.close()

    async def _one(self, question: Question, limit: asyncio.Semaphore) -> Any:
        messages, problem = question.messages, ""
        async with limit:
            for attempt in range(self._config.retries):
                try:
                    reply = await self._reply(messages, question, attempt)
                    return _accepted(reply, question, self._config.max_tokens)
                except TransientError as error:
                    problem = str(error)
                    await self._wait(attempt, error.retry_after_s)
                except (ReplyError, RuleError) as error:
                    problem = str(error)
                    messages = again(question.messages, reply.text, problem)
                except _Exhausted as error:
                    problem = str(error)
                    break
                except _Spent:
                    problem = "the budget is spent"
                    break
        self.unanswered += 1
        self.problems.append(problem)
        return None

    async def _reply(self, messages: Messages, question: Question, attempt: int) -> RawReply:
        """The reply in the cache, or else of the model, which is then cached."""
        key = self._key(messages, question, attempt)
        record = self._cache.get(key)
        if record is not None:
            self.usage = dataclasses.replace(self.usage, cached=self.usage.cached + 1)
            return RawReply(record["reply"], record.get("finish", "stop"), 0, 0, 0.0)
        worst = self._reserve(messages, question)
        try:
            reply = await llm_client.call(
                self._config, messages, question.schema, self._unsupported
            )
        finally:
            self._reserved_usd -= worst
        self._account(reply)
        self._cache.put(
            {
                "key": key,
                "model": self._config.model,
                "prompt_version": PROMPT_VERSION,
                "schema": question.schema.__name__,
                "vote": question.vote,
                "attempt": attempt,
                "temperature": self._config.temperature,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "messages": messages,
                "reply": reply.text,
                "finish": reply.finish,
                "tokens_in": reply.tokens_in,
                "tokens_out": reply.tokens_out,
                "usd": reply.usd,
            }
        )
        return reply

    def _first_key(self, question: Question) -> str:
        return self._key(question.messages, question, 0)

    def _key(self, messages: Messages, question: Question, attempt: int) -> str:
        return content_key(
            {
                "model": self._config.model,
                "prompt_version": PROMPT_VERSION,
                "messages": messages,
                "schema": question.schema.model_json_schema(),
                "temperature": self._config.temperature,
                "max_tokens": self._config.max_tokens,
                "vote": question.vote,
                "attempt": attempt if messages is not question.messages else 0,
            }
        )

    def _reserve(self, messages: Messages, question: Question) -> float:
        """Reserves the budget for one call, or raises _Spent."""
        worst = self._worst_price(messages, question) or 0.0
        if self.usage.calls >= self._config.budget_calls:
            raise _Spent
        if self.usage.usd + self._reserved_usd + worst > self._config.budget_usd:
            raise _Spent
        self._reserved_usd += worst
        self.usage = dataclasses.replace(self.usage, calls=self.usage.calls + 1)
        return worst

    def _worst_price(self, messages: Messages, question: Question) -> float | None:
        characters = sum(len(m["content"]) for m in messages)
        tokens_in = math.ceil(characters / _CHARACTERS_A_TOKEN)
        tokens_out = self._config.max_tokens or question.expected_tokens
        return llm_client.price(self._config, tokens_in, tokens_out)

    def _account(self, reply: RawReply) -> None:
        u = self.usage
        self.usage = dataclasses.replace(
            u,
            tokens_in=u.tokens_in + reply.tokens_in,
            tokens_out=u.tokens_out + reply.tokens_out,
            usd=u.usd + reply.usd,
        )

    async def _wait(self, attempt: int, retry_after_s: float | None) -> None:
        if attempt + 1 < self._config.retries:
            wanted = self._first_wait_s * 2**attempt if retry_after_s is None else retry_after_s
            await asyncio.sleep(min(max(wanted, 0.0), _LONGEST_WAIT_S))


def _accepted(reply: RawReply, question: Question, max_tokens: int) -> Any:
    if reply.finish == "length":
        if not _answer(reply.text):
            limit = f"--config.knowledge.max_tokens={max_tokens}" if max_tokens else "its own limit"
            raise _Exhausted(
                f"the model used all tokens ({limit}) before it began to answer, as reasoning"
                " models do when the limit is low; set a higher --config.knowledge.max_tokens"
            )
        raise ReplyError("the answer was cut off before its end; answer more briefly")
    if not reply.text.strip():
        raise ReplyError(f"the answer is empty (it ended with {reply.finish or 'no reason'!r})")
    return question.accept(read_reply(reply.text, question.schema))


def _answer(text: str) -> str:
    """The part of a reply that is no reasoning."""
    _, closed, answer = text.rpartition("</think>")
    if closed:
        return answer.strip()
    return text.partition("<think>")[0].strip()
