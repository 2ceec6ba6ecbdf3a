"""Calls of a language model through litellm, their price and their errors.

litellm is imported at the first call, because the import takes seconds. It is configured not to
download its price list and not to retry.
"""

import asyncio
import dataclasses
import functools
import importlib
import math
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Coroutine, Iterator
from typing import Any

import pydantic

from proco_jax.config.schema import KnowledgeConfig
from proco_jax.knowledge.prompts import Messages

_SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SECRET_SHAPE = re.compile(r"\b(?:sk|pk|rk|xai|gsk)[-_][A-Za-z0-9_\-]{8,}")
_LONGEST_ERROR = 500
# Characters of a reply that are kept; schemas.py refuses such a long one.
_LONGEST_REPLY = 200_001
_MOST_TOKENS = 10**9
_TICK_S = 0.05


class ModelError(ValueError):
    """A model cannot be called; the message says why and what to do, without any key."""


class TransientError(RuntimeError):
    """A call failed and may succeed later.

    Attributes:
      retry_after_s: seconds that the server asked to wait; None if it did not.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclasses.dataclass(frozen=True)
class RawReply:
    """The answer of a model.

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
    """Checks that the model and its key exist, before any call.

    Raises:
      ModelError: naming the environment variable that is missing.
    """
    litellm = _litellm()
    try:
        litellm.get_llm_provider(model=config.model, api_base=config.api_base or None)
    except Exception:
        raise ModelError(
            f"--config.knowledge.model={config.model!r} is no litellm model name; write"
            " provider/name, for example openai/gpt-4o-mini, or 'offline'"
        ) from None
    missing = litellm.validate_environment(model=config.model).get("missing_keys") or []
    if missing and not config.api_base:
        raise ModelError(
            f"the model {config.model!r} needs the environment variable {' and '.join(missing)};"
            " set it, or use --config.knowledge.model=offline"
        )


def price(config: KnowledgeConfig, tokens_in: int, tokens_out: int) -> float | None:
    """The price of such a call in USD; None if it is unknown."""
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
    unsupported: set[str],
) -> RawReply:
    """One call.

    If the server refuses a parameter as unsupported, the call is repeated without it;
    `max_tokens` is first renamed to `max_completion_tokens`, which reasoning models expect.

    Args:
      config: model, address, temperature, most tokens, and the time limit, which holds for the
        whole call, however slowly the reply arrives.
      messages: the question.
      schema: what the answer shall look like; the provider may not enforce it.
      unsupported: names of parameters that the server refused so far; new ones are added.

    Raises:
      TransientError: what may work later: overload, server error, timeout.
      ModelError: what will not: no access, no such model, a refused request.
    """
    litellm = _litellm()
    while True:
        request = _request(config, messages, schema, unsupported)
        try:
            response = await _within(litellm.acompletion(**request), config.timeout_s)
        except (TimeoutError, litellm.Timeout):
            raise TransientError(f"no complete answer within {config.timeout_s:g} s") from None
        except litellm.RateLimitError as error:
            reason = f"too many requests: {_message(error)}"
            raise TransientError(reason, _retry_after(error)) from None
        except _final_errors(litellm) as error:
            raise _fatal(config, error) from None
        except Exception as error:
            # litellm has classes of its own for 400 and 422, but not for every provider.
            if getattr(error, "status_code", None) not in (400, 422):
                raise _failure(config, error) from None
            problem = error
        else:
            if response is not None:
                return _reply(config, response)
            # litellm swallows a 422 after one repetition of its own.
            problem = ValueError("the server answers that the request is unprocessable (422)")
        refused = _refused_parameter(problem, request)
        if refused is None:
            raise _fatal(config, problem)
        unsupported.add(refused)


async def close() -> None:
    """Closes litellm's connections of this event loop."""
    await _litellm().close_litellm_async_clients()


def clean(text: object) -> str:
    """Text without the values of secret environment variables and strings that look like keys."""
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
            " install it, or use --config.knowledge.model=offline"
        ) from error
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.drop_params = True
    from proco_jax.knowledge.http_limits import limit_litellm

    limit_litellm()
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
    unsupported: set[str],
) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": config.model,
        "messages": messages,
        "timeout": config.timeout_s,
        "num_retries": 0,
        "max_retries": 0,
    }
    if "temperature" not in unsupported:
        request["temperature"] = config.temperature
    names = [n for n in ("max_tokens", "max_completion_tokens") if n not in unsupported]
    if config.max_tokens and names:
        request[names[0]] = config.max_tokens
    if schema is not None and "response_format" not in unsupported:
        request["response_format"] = schema
    if config.api_base:
        request["api_base"] = config.api_base
        if _litellm().validate_environment(model=config.model).get("missing_keys"):
            request["api_key"] = "none"  # a server of one's own often needs no key
    return request


def _refused_parameter(error: Exception, request: dict[str, Any]) -> str | None:
    """The parameter of the request that a 400 is about; None if no parameter is left to drop.

    An error that names no parameter is taken to be about `response_format`, which many servers do
    not know and whose refusals differ most.
    """
    text = str(error).lower()
    # "Use 'max_completion_tokens' instead" names the new parameter beside the old one.
    for name in ("temperature", "max_tokens", "max_completion_tokens"):
        if name in request and re.search(rf"\b{name}\b", text):
            return name
    return "response_format" if "response_format" in request else None


def _final_errors(litellm: Any) -> tuple[type[Exception], ...]:
    names = ("AuthenticationError", "PermissionDeniedError", "NotFoundError")
    return tuple(getattr(litellm, n) for n in names if hasattr(litellm, n))


def _fatal(config: KnowledgeConfig, error: Exception) -> ModelError:
    where = f" at {config.api_base}" if config.api_base else ""
    return ModelError(f"the model {config.model!r}{where} cannot be asked: {_message(error)}")


def _message(error: BaseException) -> str:
    """The message of an error, in one line, without the traceback that litellm puts into some."""
    text = clean(error).partition("Traceback (most recent call last)")[0]
    return " ".join(text.split())[:_LONGEST_ERROR]


def _failure(config: KnowledgeConfig, error: Exception) -> Exception:
    """What a failed call raises, with its cause where litellm's own message leaves it out."""
    from proco_jax.knowledge.http_limits import ResponseRefused

    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, ResponseRefused):
            if cause.final:
                return ModelError(f"the model {config.model!r} cannot be asked: {clean(cause)}")
            return TransientError(clean(cause))
    text = _message(error)
    causes = [_message(cause) for cause in chain[1:] if isinstance(cause, OSError) and str(cause)]
    if not causes and not re.search(r"connection error|cannot connect", text, re.IGNORECASE):
        return TransientError(f"{type(error).__name__}: {text}")
    reason = causes[-1] if causes else text
    return TransientError(f"the connection to {_address(config)} failed: {reason}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that caused it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _address(config: KnowledgeConfig) -> str:
    """The server of the model and the proxy on the way to it, without credentials."""
    if not config.api_base:
        address, scheme, host = f"the provider of {config.model!r}", "https", ""
    else:
        parts = urllib.parse.urlsplit(config.api_base)
        address, scheme, host = _without_credentials(config.api_base), parts.scheme, parts.hostname
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or (host and urllib.request.proxy_bypass(host)):
        return f"{address} (no proxy is set for it)"
    return f"{address} through the proxy {_without_credentials(proxy)}, which the environment sets"


def _without_credentials(address: str) -> str:
    return clean(re.sub(r"(?<=//)[^/@]*@", "", address))


def _retry_after(error: Any) -> float | None:
    for headers in (
        getattr(getattr(error, "response", None), "headers", None),
        getattr(error, "litellm_response_headers", None),
    ):
        wanted = str((headers or {}).get("retry-after", ""))
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", wanted):
            return float(wanted)
    return None


def _reply(config: KnowledgeConfig, response: Any) -> RawReply:
    choice = response.choices[0] if response.choices else None
    message = getattr(choice, "message", None)
    text = str(getattr(message, "content", None) or getattr(message, "refusal", None) or "")
    # A lone surrogate could be neither written nor sent.
    text = text[:_LONGEST_REPLY].encode("utf-8", "replace").decode()
    usage = getattr(response, "usage", None)
    tokens_in = _tokens(getattr(usage, "prompt_tokens", 0))
    tokens_out = _tokens(getattr(usage, "completion_tokens", 0))
    usd = price(config, tokens_in, tokens_out) or 0.0
    finish = str(getattr(choice, "finish_reason", "") or "")
    return RawReply(clean(text), finish, tokens_in, tokens_out, usd)


def _tokens(count: Any) -> int:
    """A server's count of tokens, or 0 for what is no count."""
    if not isinstance(count, int | float) or not 0 <= count <= _MOST_TOKENS:
        return 0
    return int(count)
