"""Grounding knowledge: from words and a model's name to a labeller, and to labels."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from proco_jax.config.schema import Config
from proco_jax.knowledge import llm_client as door
from proco_jax.knowledge.cache import ReplyCache
from proco_jax.knowledge.files import MAX_TEXT, Knowledge, KnowledgeError, load_knowledge
from proco_jax.knowledge.labelers import Labeller, Usage, rule_labeller, shipped_rule
from proco_jax.knowledge.llm_client import ModelError
from proco_jax.knowledge.prompts import Messages, rule_messages, states_messages
from proco_jax.knowledge.questions import Asker, BudgetError, Forecast, Question
from proco_jax.knowledge.rules.rule import Rule, parse_rule
from proco_jax.knowledge.schemas import RuleReply, StatesReply, check_count
from proco_jax.knowledge.state_descriptions import describe
from proco_jax.knowledge.state_selection import choose_disagreeing, choose_states
from proco_jax.knowledge.state_variation import varied_fields, vary_states
from proco_jax.observation import ObservationSpec
from proco_jax.types import LabeledStates

SHIPPED_MODEL = "shipped"
CACHE_NAME = "replies.jsonl"
_RULE_TOKENS = 1200
_LABEL_TOKENS = 40

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Grounding:
    """A labeller and where it comes from.

    Attributes:
      label: states to labels; may ask the model, and then raises ModelError.
      labeller: `rule` or `states`.
      model: `shipped` or the model's name.
      rules: the rules that vote; empty for `states`.
      provenance: who wrote them.
      usage: what was asked so far.
      knowledge: the file.
    """

    label: Labeller
    labeller: str
    model: str
    rules: tuple[Rule, ...]
    provenance: str
    usage: Callable[[], Usage]
    knowledge: Knowledge


def ground(config: Config, spec: ObservationSpec, workdir: Path, say: Say = print) -> Grounding:
    """The labeller that the config asks for.

    `shipped` takes the rule in the knowledge file, offline. A model name asks
    that model: for rules at once, or for labels of states when they are to be
    labelled. Every reply is kept in `config.knowledge.cache`, by default
    `replies.jsonl` in the workdir.

    Raises:
      KnowledgeError: if the knowledge file cannot be used.
      ModelError: if the model cannot be asked, has no key, is beyond the
        budget, or gave no usable rule.
    """
    k = config.knowledge
    knowledge = knowledge_of(config, spec)
    if k.model == SHIPPED_MODEL:
        rules = (shipped_rule(knowledge),)
        label = rule_labeller(rules, config.cost.margin)
        return Grounding(label, "rule", k.model, rules, knowledge.provenance, Usage, knowledge)
    door.check_access(k)
    asker = Asker(k, ReplyCache(Path(k.cache) if k.cache else workdir / CACHE_NAME))
    if k.labeller == "rule":
        rules = _ask_rules(config, knowledge, asker, say)
        label = rule_labeller(rules, config.cost.margin)
        provenance = f"written by the model {k.model} from the knowledge text"
    else:
        rules = ()
        label = _state_labeller(config, knowledge, asker, say)
        provenance = f"labelled by the model {k.model} from the knowledge text"
    return Grounding(label, k.labeller, k.model, rules, provenance, lambda: asker.usage, knowledge)


def knowledge_of(config: Config, spec: ObservationSpec | None) -> Knowledge:
    """The knowledge that the config names: its own words, its file, or the task's.

    Args:
      config: `knowledge.text`, `knowledge.file`, or else `task`.
      spec: the fields of the data; None takes the file's.

    Raises:
      KnowledgeError: if it cannot be used.
    """
    k = config.knowledge
    if not k.text:
        return load_knowledge(k.file or config.task, spec)
    if spec is None or k.file:
        spec = load_knowledge(k.file or config.task, spec).spec
    if len(k.text) > MAX_TEXT:
        raise KnowledgeError(f"--config.knowledge.text has more than {MAX_TEXT} characters")
    return Knowledge(config.task, k.text, spec, None, "")


def questions_shown(config: Config, knowledge: Knowledge, obs: np.ndarray) -> list[Messages]:
    """The questions that the config would ask, for a person to read.

    Args:
      config: chooses between rules and states.
      knowledge: the file.
      obs: `[M, O]` states, of which one batch is shown.
    """
    if config.knowledge.labeller == "rule":
        return [rule_messages(knowledge)]
    batch = [describe(row, knowledge.spec) for row in obs[: config.knowledge.batch]]
    return [states_messages(knowledge, batch, config.cost.margin)]


# Labels so far and states [K, O] to how little costs fitted to those labels agree on them,
# [K], and whether they call them unsafe, [K] bool.
Doubt = Callable[[LabeledStates, np.ndarray], tuple[np.ndarray, np.ndarray]]


def label_states(
    grounding: Grounding,
    obs: np.ndarray,
    config: Config,
    seed: int,
    doubt: Doubt | None = None,
) -> LabeledStates:
    """Chooses states and labels them, in one or more rounds.

    The first round covers the candidates, with attention to the boundary where
    a rule tells where it is; rules need no other. A model that labels states is
    then asked about those on which the costs fitted so far disagree, until
    they find `cost.recall` of what it calls unsafe among them. To the candidates
    come as many changed copies (`vary_states`): a network must be shown what
    lies inside of the unsafe set, and safe logs don't show it.

    Args:
      grounding: from `ground`.
      obs: `[M, O]` raw candidate states, logged and imagined.
      config: states, shares and rounds.
      seed: of the choice; the same candidates ask the same questions.
      doubt: what the costs fitted to labels so far say; None stops after the
        first round.
    """
    k, spec = config.knowledge, grounding.knowledge.spec
    named = tuple(sorted({name for rule in grounding.rules for name in rule.fields}))
    made_up = vary_states(obs, spec, named or varied_fields(spec), len(obs), seed)
    obs = np.concatenate([np.asarray(obs, np.float32), made_up])
    by_rule = bool(grounding.rules)
    margin = _boundary(grounding, obs, config.cost.margin)
    rounds = 1 if by_rule or doubt is None else max(k.rounds, 1)
    wanted = k.rule_states if by_rule else k.states
    later = wanted // 2 // (rounds - 1) if rounds > 1 else 0
    asked = choose_states(obs, wanted - later * (rounds - 1), seed, margin, k.boundary_share)
    labels = grounding.label(obs[asked])
    for number in range(1, rounds):
        assert doubt is not None  # or there is one round
        unsure, called = doubt(labels, obs)
        chosen = choose_disagreeing(obs, unsure, later, seed + number, asked)
        asked = np.concatenate([asked, chosen])
        try:
            new = grounding.label(obs[chosen])
        except BudgetError:
            break  # what is labelled so far stands
        labels = _joined(labels, new)
        unsafe = new.unsafe >= 0.5
        if unsafe.any() and called[chosen][unsafe].mean() >= config.cost.recall:
            break
    return labels


def _boundary(grounding: Grounding, obs: np.ndarray, widening: float) -> np.ndarray | None:
    """`[M]` distances to the boundary of what will be labelled unsafe.

    For a model that labels states, a rule in the knowledge file tells only
    where to look, never what the label is.
    """
    rules = grounding.rules or (
        (grounding.knowledge.rule,) if grounding.knowledge.rule is not None else ()
    )
    if not rules:
        return None
    return rule_labeller(rules, widening)(obs).margin + widening


def _joined(a: LabeledStates, b: LabeledStates) -> LabeledStates:
    return LabeledStates(*(np.concatenate(pair) for pair in zip(a, b, strict=True)))


def _ask_rules(config: Config, knowledge: Knowledge, asker: Asker, say: Say) -> tuple[Rule, ...]:
    def accept(reply: RuleReply) -> Rule:
        return parse_rule(reply.rule, knowledge.spec)

    messages = rule_messages(knowledge)
    questions = [
        Question(messages, RuleReply, accept, vote, _RULE_TOKENS)
        for vote in range(config.knowledge.votes)
    ]
    answers = _ask(asker, questions, config, say)
    rules = tuple(rule for rule in answers if rule is not None)
    if not rules:
        raise ModelError(
            f"the model {config.knowledge.model!r} gave no usable rule in {len(questions)} votes of"
            f" {config.knowledge.retries} tries; the last reason: {asker.problems[-1]}"
        )
    for rule in rules:
        say(f"rule: {rule.text}")
    return rules


def _state_labeller(config: Config, knowledge: Knowledge, asker: Asker, say: Say) -> Labeller:
    k = config.knowledge

    def label(obs: np.ndarray) -> LabeledStates:
        obs = np.asarray(obs, np.float32)
        texts = [describe(row, knowledge.spec) for row in obs]
        starts = range(0, len(obs), k.batch)
        questions = [
            _states_question(knowledge, texts[i : i + k.batch], config.cost.margin, vote)
            for i in starts
            for vote in range(k.votes)
        ]
        answers = _ask(asker, questions, config, say)
        if questions and all(answer is None for answer in answers):
            raise ModelError(
                f"the model {k.model!r} gave no usable label; the last reason: {asker.problems[-1]}"
            )
        batches = [answers[i : i + k.votes] for i in range(0, len(answers), k.votes)]
        sizes = [len(texts[i : i + k.batch]) for i in starts]
        votes = [_votes(batch, size) for batch, size in zip(batches, sizes, strict=True)]
        return _counted(obs, np.concatenate(votes, axis=1) if votes else np.zeros((k.votes, 0)))

    return label


def _states_question(knowledge: Knowledge, texts: list[str], margin: float, vote: int) -> Question:
    def accept(reply: StatesReply) -> np.ndarray:
        check_count(reply, len(texts))
        return np.array(
            [x.confidence if x.unsafe else 1.0 - x.confidence for x in reply.labels], np.float32
        )

    messages = states_messages(knowledge, texts, margin)
    tokens = 200 + _LABEL_TOKENS * len(texts)
    return Question(messages, StatesReply, accept, vote, tokens)


def _votes(batch: list[np.ndarray | None], size: int) -> np.ndarray:
    """`[votes, size]` probabilities; NaN for a vote that was not given."""
    missing = np.full(size, np.nan, np.float32)
    return np.stack([missing if vote is None else vote for vote in batch])


def _counted(obs: np.ndarray, votes: np.ndarray) -> LabeledStates:
    """Votes to labels: their mean, and the share of all votes that agree with the majority.

    A state without a vote is unsafe with confidence 0.
    """
    given = np.isfinite(votes)
    number = given.sum(axis=0)
    total = np.where(given, votes, 0.0).sum(axis=0)
    unsafe = np.where(number > 0, total / np.maximum(number, 1), 1.0).astype(np.float32)
    for_unsafe = (given & (votes >= 0.5)).sum(axis=0)
    agree = np.maximum(for_unsafe, number - for_unsafe) / len(votes)
    margin = np.full(len(obs), np.nan, np.float32)
    return LabeledStates(obs, unsafe, margin, agree.astype(np.float32))


def _ask(asker: Asker, questions: list[Question], config: Config, say: Say) -> list:
    forecast = asker.forecast(questions)
    say(_forecast_text(forecast, config))
    asker.check_budget(forecast)
    before = asker.unanswered
    answers = asker.ask(questions)
    u = asker.usage
    say(
        f"{u.calls} calls so far, {u.cached} answers from the cache, {u.tokens_in} tokens in,"
        f" {u.tokens_out} out, {u.usd:.4f} USD"
    )
    if asker.unanswered > before:
        say(
            f"{asker.unanswered - before} of {len(questions)} questions got no usable answer; the"
            f" last reason: {asker.problems[-1]}"
        )
    return answers


def _forecast_text(forecast: Forecast, config: Config) -> str:
    k = config.knowledge
    money = "price unknown" if forecast.usd is None else f"at most {forecast.usd:.4f} USD"
    return (
        f"{forecast.calls} calls to {k.model} ({money}), {forecast.cached} answers from the cache;"
        f" budget {k.budget_calls} calls, {k.budget_usd:g} USD"
    )
