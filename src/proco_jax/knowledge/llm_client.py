"""The door to litellm: one call to a language model, its price, and what went wrong.

litellm is imported at the first call (it takes seconds), asks no server for
its price list, and retries nothing by itself.
"""

import asyncio
import dataclasses
import functools
import importlib
import math
import os
import re
from collections.abc import Coroutine
from typing import Any

import pydantic

from proco_jax.config.schema import KnowledgeConfig
from proco_jax.knowledge.prompts import Messages

_SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SECRET_SHAPE = re.compile(r"\b(?:sk|pk|rk|xai|gsk)[-_][A-Za-z0-9_\-]{8,}")
_LONGEST_ERROR = 500
_TICK_S = 0.05


class ModelError(ValueError):
    """A model that cannot be asked: why, and what to do. Never holds a key."""


class TransientError(RuntimeError):
    """A call that failed and may succeed later.

    Attributes:
      retry_after_s: how long the server asked to wait; None where it didn't.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclasses.dataclass(frozen=True)
class RawReply:
    """What a model answered.

    Attributes:
      text: the content, without secrets.
      finish: why it ended: `stop`, `length` when it was cut off, ...
      tokens_in: tokens sent.
      tokens_out: tokens received.
      usd: its price; 0 where none is known.
    """

    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    usd: float


def check_access(config: KnowledgeConfig) -> None:
    """Checks before anything is asked that the model and its key are there.

    Raises:
      ModelError: naming the environment variable that is missing.
    """
    litellm = _litellm()
    try:
        litellm.get_llm_provider(model=config.model, api_base=config.api_base or None)
    except Exception:
        raise ModelError(
            f"--config.knowledge.model={config.model!r} is no litellm model name; write"
            " provider/name, for example openai/gpt-4o-mini, or 'shipped'"
        ) from None
    missing = litellm.validate_environment(model=config.model).get("missing_keys") or []
    if missing and not config.api_base:
        raise ModelError(
            f"the model {config.model!r} needs the environment variable {' and '.join(missing)};"
            " set it, or use --config.knowledge.model=shipped"
        )


def price(config: KnowledgeConfig, tokens_in: int, tokens_out: int) -> float | None:
    """What such a call costs in USD, or None where no price is known."""
    if config.api_base:
        return None
    try:
        prices = _litellm().cost_per_token(
            model=config.model, prompt_tokens=tokens_in, completion_tokens=tokens_out
        )
    except Exception:  # litellm raises a plain Exception for models without a price
        return None
    return float(sum(prices))


async def call(
    config: KnowledgeConfig,
    messages: Messages,
    schema: type[pydantic.BaseModel] | None,
    max_tokens: int,
) -> RawReply:
    """Asks once.

    Args:
      config: model, address, temperature and time limit, which holds for the
        whole call, however slowly it drips.
      messages: the question.
      schema: what the answer shall look like; the provider may not enforce it.
      max_tokens: most tokens of the answer.

    Raises:
      TransientError: what may work later: overload, server error, timeout.
      ModelError: what will not: no access, no such model, a refused request.
    """
    litellm = _litellm()
    try:
        response = await _within(
            litellm.acompletion(**_request(config, messages, schema, max_tokens)),
            config.timeout_s,
        )
    except (TimeoutError, litellm.Timeout):
        raise TransientError(f"no complete answer within {config.timeout_s:g} s") from None
    except litellm.RateLimitError as error:
        raise TransientError(f"too many requests: {clean(error)}", _retry_after(error)) from None
    except (litellm.BadRequestError, litellm.UnprocessableEntityError) as error:
        if schema is not None:
            return await call(config, messages, None, max_tokens)
        raise _fatal(config, error) from None
    except _final_errors(litellm) as error:
        raise _fatal(config, error) from None
    except Exception as error:
        raise TransientError(f"{type(error).__name__}: {clean(error)}") from None
    return _reply(config, response)


async def close() -> None:
    """Closes litellm's connections of this event loop."""
    await _litellm().close_litellm_async_clients()


def clean(text: object) -> str:
    """Text without any value of a secret environment variable, nor what looks like a key."""
    result = str(text)
    secrets = {v for k, v in os.environ.items() if _SECRET_NAMES.search(k) and len(v) >= 6}
    for secret in sorted(secrets, key=len, reverse=True):
        result = result.replace(secret, "[secret]")
    return _SECRET_SHAPE.sub("[secret]", result)


@functools.cache
def _litellm() -> Any:
    # Without this the import fetches a price list from the internet.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = importlib.import_module("litellm")
    except ImportError as error:
        raise ModelError(
            "asking a language model needs the package litellm, which is not installed;"
            " install it, or use --config.knowledge.model=shipped"
        ) from error
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.drop_params = True
    return litellm


async def _within(coroutine: Coroutine[Any, Any, Any], limit_s: float) -> Any:
    """Awaits, but not for longer than a limit.

    Counts ticks of the event loop rather than the clock: litellm loads modules
    inside of the first call, which stops the loop for seconds.
    """
    task = asyncio.create_task(coroutine)
    try:
        for _ in range(math.ceil(limit_s / _TICK_S)):
            if (await asyncio.wait({task}, timeout=_TICK_S))[0]:
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _request(
    config: KnowledgeConfig,
    messages: Messages,
    schema: type[pydantic.BaseModel] | None,
    max_tokens: int,
) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": config.model,
        "messages": messages,
        "temperature": config.temperature,
        "max_tokens": max_tokens,
        "timeout": config.timeout_s,
        "num_retries": 0,
        "max_retries": 0,
    }
    if schema is not None:
        request["response_format"] = schema
    if config.api_base:
        request["api_base"] = config.api_base
        if _litellm().validate_environment(model=config.model).get("missing_keys"):
            request["api_key"] = "none"  # a server of one's own often needs no key
    return request


def _final_errors(litellm: Any) -> tuple[type[Exception], ...]:
    names = ("AuthenticationError", "PermissionDeniedError", "NotFoundError")
    return tuple(getattr(litellm, n) for n in names if hasattr(litellm, n))


def _fatal(config: KnowledgeConfig, error: Exception) -> ModelError:
    where = f" at {config.api_base}" if config.api_base else ""
    reason = clean(error)[:_LONGEST_ERROR]
    return ModelError(f"the model {config.model!r}{where} cannot be asked: {reason}")


def _retry_after(error: Any) -> float | None:
    for headers in (
        getattr(getattr(error, "response", None), "headers", None),
        getattr(error, "litellm_response_headers", None),
    ):
        wanted = str((headers or {}).get("retry-after", ""))
        if re.fullmatch(r"\d+(\.\d+)?", wanted):
            return float(wanted)
    return None


def _reply(config: KnowledgeConfig, response: Any) -> RawReply:
    choice = response.choices[0] if response.choices else None
    message = getattr(choice, "message", None)
    text = getattr(message, "content", None) or getattr(message, "refusal", None) or ""
    usage = getattr(response, "usage", None)
    tokens_in = int(getattr(usage, "prompt_tokens", 0) or 0)
    tokens_out = int(getattr(usage, "completion_tokens", 0) or 0)
    usd = price(config, tokens_in, tokens_out) or 0.0
    finish = str(getattr(choice, "finish_reason", "") or "")
    return RawReply(clean(text), finish, tokens_in, tokens_out, usd)
