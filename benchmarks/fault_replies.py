"""Hostile replies of a language model's server, and damage in the file that keeps the replies."""

import dataclasses
import functools
import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fault_outcomes import Fault, Found, Outcome, damage, damaged
from proco_jax.config.schema import Config, replaced
from proco_jax.envs.tasks import get_task
from proco_jax.knowledge.grounding import ground, knowledge_of
from proco_jax.knowledge.recorded import recorded_replies
from proco_jax.knowledge.replay import Answer, completion, failure, serve
from proco_jax.knowledge.rule_checks import LoggedStates
from proco_jax.knowledge.schemas import RuleReply, read_reply

TASK = "SafetyPointGoal1"
VOTES = 3


class HostileReplies:
    """Grounds the knowledge of a task by replies that are not what they should be.

    Args:
      scratch: folder for caches of replies.
    """

    def __init__(self, scratch: Path) -> None:
        # Nothing is asked but a server on loopback.
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
        self._folder = scratch / "replies"
        self._spec = get_task(TASK).spec
        states = np.random.default_rng(0).uniform(0, 1, (500, self._spec.size))
        self._logged = LoggedStates(states.astype(np.float32), safe=False)
        recorded = recorded_replies(knowledge_of(Config(task=TASK), self._spec))
        self._replies = recorded.replies
        self._good = self._replies[0]
        self._rule = read_reply(self._good, RuleReply).rule

    def warm_up(self) -> None:
        """Asks once, which imports litellm and takes seconds."""
        with serve(lambda request: completion(self._good)) as address:
            self._ground(self._asking(address, votes=1))

    def fault(self, rng: np.random.Generator) -> Fault:
        """One hostile server: what it answers, the check, and what an error must name."""
        words, answer, meant = self._answer(rng)

        def check() -> Found:
            shutil.rmtree(self._folder, ignore_errors=True)
            with serve(lambda request: answer) as address:
                rules = self._ground(self._asking(address, votes=1))
            if rules == [self._rule]:
                return Outcome.HARMLESS, ""
            # The server answered with this rule, so this is its rule.
            if meant and all(rule in meant for rule in rules):
                return Outcome.OTHER, f"the rule {rules[0][:100]}"
            return Outcome.SILENT, f"the rule {rules[0][:300]}"

        return words, check, ("model",)

    def cache_fault(self, rng: np.random.Generator) -> Fault:
        """A damaged cache: what was done, the check, and what an error must name."""
        return self._cache_fault(rng, recorded=bool(rng.random() < 0.4))

    def recorded_fault(self, rng: np.random.Generator) -> Fault:
        """The same for replies that are shipped, without any server."""
        return self._cache_fault(rng, recorded=True)

    def _cache_fault(self, rng: np.random.Generator, recorded: bool) -> Fault:
        shutil.rmtree(self._folder, ignore_errors=True)
        told = [completion(reply) for reply in self._replies]

        def run() -> list[str]:
            if recorded:
                config = Config(task=TASK)
                changes = {"knowledge.model": "recorded", "knowledge.votes": VOTES}
                return self._ground(replaced(config, changes))
            served = iter(told * 3)
            with serve(lambda request: next(served)) as address:
                # The address is in no key of the cache.
                return self._ground(self._asking(address, votes=VOTES))

        clean = sorted(run())
        words = damage(self._folder / "replies.jsonl", rng)

        def check() -> Found:
            # Votes may be asked again, and then come in another order.
            found = run()
            if set(found) <= set(clean) and len(found) == len(clean):
                return Outcome.MENDED if sorted(found) == clean else Outcome.OTHER, "asked again"
            return Outcome.SILENT, "other rules"

        return f"{'recorded' if recorded else 'asked'}: {words}", check, ("replies.jsonl", "model")

    def _ground(self, config: Config) -> list[str]:
        found = ground(config, self._spec, self._folder, lambda line: None, self._logged)
        return [rule.text for rule in found.rules]

    def _asking(self, address: str, votes: int) -> Config:
        changes = {
            "knowledge.model": "openai/test",
            "knowledge.api_base": address,
            "knowledge.votes": votes,
            "knowledge.concurrency": 1,
            "knowledge.retries": 2,
            "knowledge.timeout_s": 3.0,
        }
        return replaced(Config(task=TASK), changes)

    def _answer(self, rng: np.random.Generator) -> tuple[str, Answer, str]:
        """A description, the answer, and the text in which any other rule must stand."""
        way = rng.random()
        if way < 0.35:
            options = _texts(self._good, self._rule)
            words = str(rng.choice(sorted(options)))
            text, finish = options[words]
            return words, completion(text, finish), ""
        if way < 0.55:
            kind = str(rng.choice(["flip", "flip", "truncate", "zero", "garbage"]))
            raw, words = damaged(self._good.encode(), kind, rng)
            text = raw.decode("utf-8", "replace")
            return f"reply, {words}", completion(text), _unescaped(text)
        if way < 0.75:
            whole = completion(self._good)
            kind = str(rng.choice(["flip", "truncate", "zero", "garbage", "empty"]))
            body, words = damaged(whole.body, kind, rng)
            meant = _unescaped(_unescaped(body.decode("utf-8", "replace")))
            return f"body, {words}", dataclasses.replace(whole, body=body), meant
        options = _answers(completion(self._good))
        words = str(rng.choice(sorted(options)))
        return words, options[words], ""


def _unescaped(text: str) -> str:
    return text.replace('\\"', '"').replace("\\\\", "\\").replace("\\n", "\n")


def _texts(good: str, rule: str) -> dict[str, tuple[str | None, str]]:
    """Texts of replies with the reason of their end. All mean the good rule, or none."""
    quoted = json.dumps({"rule": rule, "explanation": None})
    no = json.dumps({"rule": "nearest(nothing) <= 1 m"})
    many = "9" * 5000
    return {
        "no explanation": (quoted, "stop"),
        "thoughts first": (f"<think>maybe {no}?</think>{good}", "stop"),
        "thoughts without a beginning": (f"maybe {no}?</think>{good}", "stop"),
        "thoughts without an end": (f"<think>maybe {good}", "length"),
        "twice": (f"{good}\n{good}", "stop"),
        "fenced": (f"Here it is:\n```json\n{good}\n```\nAnything else?", "stop"),
        "braces in prose": (f"The set {{x}} is meant. {good} {{end}}", "stop"),
        "a list of it": (f"[{good}]", "stop"),
        "cut off": (good[: len(good) // 2], "length"),
        "whole, but cut off": (good, "length"),
        "empty": ("", "stop"),
        "nothing at all": (None, "stop"),
        "empty at the limit": ("", "length"),
        "spaces": (" \n" * 1000, "stop"),
        "number of 5,000 digits": (
            json.dumps({"rule": f"nearest(hazards_lidar) <= {many} m"}),
            "stop",
        ),
        "JSON number of 5,000 digits": (f'{{"rule": {many}}}', "stop"),
        "digits of another script": ('{"rule": "nearest(hazards_lidar) <= \u0663 m"}', "stop"),
        "deeply nested": ("[" * 100_000, "stop"),
        "deep parentheses": (json.dumps({"rule": "(" * 1500 + rule}), "stop"),
        "nested objects": ('{"a":' * 5000, "stop"),
        "many braces": ("{" * 190_000, "stop"),
        "very long": ("x" * 1_000_000, "stop"),
        "code": (json.dumps({"rule": "__import__('os').system('touch /tmp/owned')"}), "stop"),
        "another field": (no, "stop"),
        "true of every state": (json.dumps({"rule": "nearest(hazards_lidar) >= 0 m"}), "stop"),
        "true of no state": (json.dumps({"rule": "nearest(hazards_lidar) < 0 m"}), "stop"),
        "infinite": (json.dumps({"rule": "nearest(hazards_lidar) <= 1e999 m"}), "stop"),
        "NaN": ('{"rule": NaN}', "stop"),
        "a list for a rule": (json.dumps({"rule": [rule]}), "stop"),
        "null": (json.dumps({"rule": None}), "stop"),
        "zero bytes": (json.dumps({"rule": rule[:9] + "\0" + rule[9:]}), "stop"),
        "a lone surrogate": ('{"rule": "\\ud800"}', "stop"),
        "a refusal": ("I cannot help with that.", "content_filter"),
    }


def _answers(good: Answer) -> dict[str, Answer]:
    """Answers of a server that is not what it should be."""
    body = json.loads(good.body)

    def with_message(**message: Any) -> Answer:
        choice = {**body["choices"][0], "message": {"role": "assistant", **message}}
        return Answer(json.dumps({**body, "choices": [choice]}).encode())

    text = body["choices"][0]["message"]["content"]
    bomb = _bomb()
    return {
        "content in parts": with_message(content=[{"type": "text", "text": text}]),
        "content in odd parts": with_message(content=[text, None, {"text": 3}, {}]),
        "content a number": with_message(content=3),
        "content an object": with_message(content={"text": text}),
        "no choices": Answer(json.dumps({**body, "choices": []}).encode()),
        "choices null": Answer(json.dumps({**body, "choices": None}).encode()),
        "no usage": Answer(json.dumps({k: v for k, v in body.items() if k != "usage"}).encode()),
        "usage of text": Answer(json.dumps({**body, "usage": {"prompt_tokens": "many"}}).encode()),
        "usage infinite": Answer(
            json.dumps({**body, "usage": {"prompt_tokens": float("inf")}}).encode()
        ),
        "usage negative": Answer(
            json.dumps(
                {**body, "usage": {"prompt_tokens": -5, "completion_tokens": 10**30}}
            ).encode()
        ),
        "a list": Answer(b"[]"),
        "HTML": Answer(b"<html>busy</html>", 200, {"Content-Type": "text/html"}),
        "empty body": Answer(b""),
        "gzip bomb": Answer(bomb, 200, {"Content-Encoding": "gzip"}),
        "damaged gzip": Answer(bomb[:1000], 200, {"Content-Encoding": "gzip"}),
        "unknown encoding": Answer(good.body, 200, {"Content-Encoding": "br"}),
        "large body": Answer(b" " * 20_000_000 + good.body),
        "cut connection": dataclasses.replace(good, keep=0.5),
        "silence": dataclasses.replace(good, wait_s=8.0),
        "drip": dataclasses.replace(good, drip_s=0.05),
        "redirect": Answer(b"", 307, {"Location": "http://192.0.2.1/v1/chat/completions"}),
        "redirect to a file": Answer(b"", 302, {"Location": "file:///etc/passwd"}),
        "redirect to itself": Answer(b"", 307, {"Location": "/v1/chat/completions"}),
        "retry after no number": failure(429, "slow down", retry_after="nan"),
        "retry after a past date": failure(503, "later", retry_after="-5"),
        **{
            f"status {status}": failure(status, "no")
            for status in (
                400,
                401,
                402,
                403,
                404,
                405,
                408,
                409,
                413,
                418,
                422,
                500,
                502,
                503,
                529,
            )
        },
        "status 400 of temperature": failure(400, "unsupported parameter: temperature"),
        "status 200 with an error": Answer(json.dumps({"error": {"message": "no"}}).encode()),
    }


@functools.cache
def _bomb() -> bytes:
    """300 MB of spaces."""
    return gzip.compress(b" " * 300_000_000, 9)
