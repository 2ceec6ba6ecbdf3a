"""What a language model's reply may look like, and which part of it is the answer."""

import json
import time

import pytest

from proco_jax.knowledge.schemas import ReplyError, RuleReply, StatesReply, read_reply

GOOD = {"rule": "speed > 1 m/s", "explanation": "too fast"}
TEXT = json.dumps(GOOD)
OTHER = json.dumps({"rule": "speed > 9 m/s"})

READ = {
    "plain": TEXT,
    "fenced": f"```json\n{TEXT}\n```",
    "fence without a language": f"```\n{TEXT}\n```\nGood luck!",
    "prose around": f"Certainly! {TEXT} I hope that this helps.",
    "given twice": f"{TEXT}\n{TEXT}",
    "a draft first": f"First idea: {OTHER}\nBetter: {TEXT}",
    "a brace in prose": f"The set {{x : x > 1}} is unsafe. {TEXT}",
    "an open brace in prose": f"Let {{ be a brace. {TEXT}",
    "a brace after": f"{TEXT} }} {{",
    "another object before": f'{{"thought": "fast"}} {TEXT}',
    "another object after": f'{TEXT} {{"done": true}}',
    "thinking": f"<think>maybe {OTHER}</think>{TEXT}",
    "a lone end of thinking": f"maybe {OTHER}, or {{this}}\n</think>\n\n{TEXT}",
    "thinking twice": f"{OTHER}</think>{OTHER}</think>{TEXT}",
    "in a list": f"[{TEXT}]",
    "wrapped": f'{{"answer": {TEXT}}}',
    "a huge number before": f'{{"n": {"9" * 5000}}} {TEXT}',
    "deep nesting before": "[" * 3000 + '{"a":' * 3000 + TEXT,
    "many braces before": "{" * 5000 + TEXT,
}


@pytest.mark.parametrize("name", READ)
def test_the_last_complete_object_that_fits_is_the_answer(name: str) -> None:
    assert read_reply(READ[name], RuleReply).rule == GOOD["rule"]


@pytest.mark.parametrize(
    "rest",
    ['"explanation": null', '"explanation": ""', '"confidence": 1', '"explanation": "</think>"'],
)
def test_an_explanation_may_be_missing_or_anything(rest: str) -> None:
    assert read_reply(f'{{"rule": "speed > 1 m/s", {rest}}}', RuleReply).rule == GOOD["rule"]


REFUSED = {
    "no object": ("I would call it dangerous.", "no complete JSON object"),
    "nothing": ("", "no complete JSON object"),
    "cut off": (TEXT[:-5], "no complete JSON object"),
    "a list": ("[1, 2]", "no complete JSON object"),
    "only thoughts": (f"<think>{TEXT}</think>", "no complete JSON object"),
    "only thoughts, unopened": (f"{TEXT}</think> Done.", "no complete JSON object"),
    "another schema": ('{"regel": "x"}', "rule: Field required"),
    "null": ('{"rule": null}', "rule: Input should be a valid string"),
    "a huge number": ('{"rule": ' + "9" * 5000 + "}", "no complete JSON object"),
    "deep nesting": ('{"rule": ' + "[" * 50_000, "no complete JSON object"),
    "too long": ("x" * 300_000, "more than 200000 characters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_reply_without_an_answer_is_refused_with_its_reason(name: str) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(ReplyError, match=reason):
        read_reply(text, RuleReply)


def test_a_rule_within_an_answer_is_no_later_answer() -> None:
    text = json.dumps(GOOD | {"alternative": {"rule": "speed > 9 m/s"}})
    assert read_reply(text, RuleReply).rule == GOOD["rule"]


def test_a_mistake_is_reported_for_the_whole_object_and_not_for_its_parts() -> None:
    text = '{"labels": [{"state": 1, "unsafe": "yes", "confidence": 2}]}'
    with pytest.raises(ReplyError, match=r"labels\.0\.unsafe.*labels\.0\.confidence"):
        read_reply(text, StatesReply)


@pytest.mark.parametrize("confidence", ["NaN", "1e999", "-Infinity", "null", '"sure"'])
def test_a_confidence_is_a_share(confidence: str) -> None:
    text = f'{{"labels": [{{"state": 1, "unsafe": true, "confidence": {confidence}}}]}}'
    with pytest.raises(ReplyError, match=r"labels\.0\.confidence"):
        read_reply(text, StatesReply)


def test_no_text_takes_long_to_read() -> None:
    start = time.monotonic()
    # Each brace opens an object that only ends, broken, with the text.
    for text in ('{"a":' * 40_000, '{"a":[{},' * 20_000, "{}" * 90_000, '{"' * 90_000):
        with pytest.raises(ReplyError):
            read_reply(text, RuleReply)
    assert time.monotonic() - start < 60.0
