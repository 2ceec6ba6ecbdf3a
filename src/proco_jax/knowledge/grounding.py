"""Grounding: from knowledge in plain language, and the name of a model, to a labeler and labels."""

import collections
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from proco_jax.config.schema import Config, replaced
from proco_jax.knowledge import llm_client
from proco_jax.knowledge.cache import ReplyCache
from proco_jax.knowledge.files import MAX_TEXT, Knowledge, KnowledgeError, load_knowledge
from proco_jax.knowledge.labelers import Labeler, Usage, rule_labeler, shipped_rule
from proco_jax.knowledge.llm_client import ModelError
from proco_jax.knowledge.prompts import Messages, rule_messages, states_messages
from proco_jax.knowledge.questions import Asker, BudgetError, Forecast, Question
from proco_jax.knowledge.recorded import RecordedReplies, find_recorded, recorded_replies
from proco_jax.knowledge.rule_checks import (
    LoggedStates,
    UnsafeShares,
    contradiction,
    unsafe_shares,
    vacuous,
)
from proco_jax.knowledge.schemas import ReplyError, RuleReply, StatesReply, check_count
from proco_jax.knowledge.state_descriptions import describe
from proco_jax.knowledge.state_selection import choose_disagreeing, choose_states
from proco_jax.knowledge.state_variation import varied_fields, vary_states
from proco_jax.observation import ObservationSpec
from proco_jax.rules.rule import Rule, parse_rule
from proco_jax.types import LabeledStates

SHIPPED_MODEL = "shipped"
RECORDED_MODEL = "recorded"
OFFLINE_MODEL = "offline"
CACHE_NAME = "replies.jsonl"
_RULE_TOKENS = 1200
_LABEL_TOKENS = 40

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Grounding:
    """A labeler and where it comes from.

    Attributes:
      label: states to labels; may ask the model, and then raises ModelError.
      labeler: `rule` or `states`.
      model: `shipped`, `recorded` or the name of a language model.
      rules: the rules that vote; empty for `states`.
      provenance: who wrote them.
      usage: what was asked so far.
      knowledge: the file.
      shares: how much each rule calls unsafe; empty if the rules were not checked.
      warning: that the rules contradict safe logs; empty if they do not.
    """

    label: Labeler
    labeler: str
    model: str
    rules: tuple[Rule, ...]
    provenance: str
    usage: Callable[[], Usage]
    knowledge: Knowledge
    shares: tuple[UnsafeShares, ...] = ()
    warning: str = ""


def check_knowledge(config: Config, spec: ObservationSpec | None, workdir: Path) -> None:
    """Checks all that can be checked before there are logs, and asks no model.

    The knowledge file is read and its rule type-checked; replies must be recorded; a language
    model must have its key, and the budget must cover the question for rules.

    Args:
      config: as for `ground`.
      spec: the fields of the data; None if they are not known yet, for those of the file.
      workdir: folder of the cache.

    Raises:
      KnowledgeError, ModelError: as `ground` does.
    """
    knowledge = knowledge_of(config, spec)
    config = _resolved(config, knowledge)
    k = config.knowledge
    if k.model == SHIPPED_MODEL:
        shipped_rule(knowledge)
    elif k.model == RECORDED_MODEL:
        _recorded(config, knowledge)
    else:
        llm_client.check_access(k)
        if k.labeler == "rule":
            asker = Asker(k, _cache(config, workdir))
            asker.check_budget(asker.forecast(_rule_questions(config, knowledge, None)))


def ground(
    config: Config,
    spec: ObservationSpec,
    workdir: Path,
    log: Log = print,
    logged: LoggedStates | None = None,
) -> Grounding:
    """The labeler that the config asks for.

    `shipped` takes the rule in the knowledge file, `recorded` the rules that a language model wrote
    for it, `offline` the recorded ones if there are any; all work offline. Any other name is that
    of a language model, which is asked for rules at once, or for labels whenever states are
    labeled. Every reply is kept in `config.knowledge.cache`, by default `replies.jsonl` in the
    workdir.

    With logged states, a rule that calls about all or none of the logged and varied states unsafe
    is refused: a language model is asked again, a rule of a file is an error. Rules that
    contradict safe logs are logged as a warning (`rule_checks.py`).

    Args:
      config: `knowledge`, and `cost.margin` for the widening of rules.
      spec: the fields of the data.
      workdir: folder of the cache.
      log: takes lines for the user.
      logged: states against which rules are checked; None checks nothing.

    Raises:
      KnowledgeError: if the knowledge file cannot be used, no replies are recorded for it, or its
        rule is refused.
      ModelError: if the model cannot be asked, has no key, is beyond the
        budget, or gave no usable rule.
    """
    knowledge = knowledge_of(config, spec)
    grounding = _ground(_resolved(config, knowledge), knowledge, workdir, log, logged)
    if logged is None or not grounding.rules:
        return grounding
    fields = grounding.knowledge.spec
    shares = tuple(unsafe_shares(rule, logged.obs, fields) for rule in grounding.rules)
    warning = (contradiction(grounding.rules, shares) if logged.safe else None) or ""
    if warning:
        log(warning)
    return dataclasses.replace(grounding, shares=shares, warning=warning)


def knowledge_of(config: Config, spec: ObservationSpec | None) -> Knowledge:
    """The knowledge that the config names: its own text, its file, or that of the task.

    Args:
      config: `knowledge.text`, `knowledge.file`, or else `task`.
      spec: the fields of the data; None takes the file's.

    Raises:
      KnowledgeError: if it cannot be used.
    """
    k = config.knowledge
    if not k.text:
        return load_knowledge(k.file or config.system.file or config.task, spec)
    if spec is None or k.file:
        spec = load_knowledge(k.file or config.system.file or config.task, spec).spec
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
    if config.knowledge.labeler == "rule":
        return [rule_messages(knowledge)]
    batch = [describe(row, knowledge.spec) for row in obs[: config.knowledge.batch]]
    return [states_messages(knowledge, batch, config.cost.margin)]


# From the labels so far and states [K, O]: the disagreement [K] of cost networks fitted to these
# labels, and whether they call the states unsafe, [K] bool.
Uncertainty = Callable[[LabeledStates, np.ndarray], tuple[np.ndarray, np.ndarray]]


def label_states(
    grounding: Grounding,
    obs: np.ndarray,
    config: Config,
    seed: int,
    uncertainty: Uncertainty | None = None,
) -> LabeledStates:
    """Chooses states and labels them, in one or more rounds.

    The first round covers the candidates and as many varied copies of them (`vary_states`), with
    more states near the boundary if a rule gives it; rules need no other round. A model that
    labels states is then asked about those on which the cost networks fitted so far disagree,
    until they find `cost.recall` of what it calls unsafe among them.

    Args:
      grounding: from `ground`.
      obs: `[M, O]` raw candidate states, logged and imagined.
      config: states, shares and rounds.
      seed: of the choice; the same candidates ask the same questions.
      uncertainty: disagreement of cost networks fitted to the labels so far; None stops after
        the first round.
    """
    k, spec = config.knowledge, grounding.knowledge.spec
    named = tuple(sorted({name for rule in grounding.rules for name in rule.fields}))
    varied = vary_states(obs, spec, named or varied_fields(spec), len(obs), seed)
    obs = np.concatenate([np.asarray(obs, np.float32), varied])
    by_rule = bool(grounding.rules)
    margin = _boundary(grounding, obs, config.cost.margin)
    rounds = 1 if by_rule or uncertainty is None else max(k.rounds, 1)
    wanted = k.rule_states if by_rule else k.states
    later = wanted // 2 // (rounds - 1) if rounds > 1 else 0
    asked = choose_states(obs, wanted - later * (rounds - 1), seed, margin, k.boundary_share)
    labels = grounding.label(obs[asked])
    for number in range(1, rounds):
        assert uncertainty is not None  # or there is one round
        unsure, called = uncertainty(labels, obs)
        chosen = choose_disagreeing(obs, unsure, later, seed + number, asked)
        asked = np.concatenate([asked, chosen])
        try:
            new = grounding.label(obs[chosen])
        except BudgetError:
            break  # the labels so far are kept
        labels = _joined(labels, new)
        unsafe = new.unsafe >= 0.5
        if unsafe.any() and called[chosen][unsafe].mean() >= config.cost.recall:
            break
    return labels


def _resolved(config: Config, knowledge: Knowledge) -> Config:
    """The config with `recorded` or `shipped` in place of `offline`.

    The rule in the file is taken where nothing was recorded for this knowledge, and where the
    config asks for more votes than were recorded or for labels of states.
    """
    k = config.knowledge
    if k.model != OFFLINE_MODEL:
        return config
    found = find_recorded(knowledge) if k.labeler == "rule" else None
    enough = found is not None and k.votes <= len(found.replies)
    return replaced(config, {"knowledge.model": RECORDED_MODEL if enough else SHIPPED_MODEL})


def _ground(
    config: Config, knowledge: Knowledge, workdir: Path, log: Log, logged: LoggedStates | None
) -> Grounding:
    """The labeler, from rules that tell states apart."""
    k = config.knowledge
    if k.model == SHIPPED_MODEL:
        rules = (shipped_rule(knowledge),)
        if reason := _vacuous(rules[0], knowledge, logged):
            raise KnowledgeError(f"the knowledge file {knowledge.name!r}: {reason}")
        label = rule_labeler(rules, config.cost.margin)
        return Grounding(label, "rule", k.model, rules, knowledge.provenance, Usage, knowledge)
    cache = _cache(config, workdir)
    if k.model == RECORDED_MODEL:
        return _ground_recorded(config, knowledge, cache, log, logged)
    llm_client.check_access(k)
    asker = Asker(k, cache)
    if k.labeler == "rule":
        rules = _ask_rules(config, knowledge, asker, log, logged)
        label = rule_labeler(rules, config.cost.margin)
        provenance = f"written by the model {k.model} from the knowledge text"
    else:
        rules = ()
        label = _state_labeler(config, knowledge, asker, log)
        provenance = f"labeled by the model {k.model} from the knowledge text"
    return Grounding(label, k.labeler, k.model, rules, provenance, lambda: asker.usage, knowledge)


def _cache(config: Config, workdir: Path) -> ReplyCache:
    own = config.knowledge.cache
    return ReplyCache(Path(own) if own else workdir / CACHE_NAME)


def _vacuous(rule: Rule, knowledge: Knowledge, logged: LoggedStates | None) -> str | None:
    if logged is None:
        return None
    return vacuous(unsafe_shares(rule, logged.obs, knowledge.spec))


def _boundary(grounding: Grounding, obs: np.ndarray, widening: float) -> np.ndarray | None:
    """`[M]` distances to the boundary of what will be labeled unsafe.

    For a model that labels states, a rule in the knowledge file only guides which states are
    chosen, and gives no label.
    """
    rules = grounding.rules or (
        (grounding.knowledge.rule,) if grounding.knowledge.rule is not None else ()
    )
    if not rules:
        return None
    return rule_labeler(rules, widening)(obs).margin + widening


def _joined(a: LabeledStates, b: LabeledStates) -> LabeledStates:
    return LabeledStates(*(np.concatenate(pair) for pair in zip(a, b, strict=True)))


def _ground_recorded(
    config: Config,
    knowledge: Knowledge,
    cache: ReplyCache,
    log: Log,
    logged: LoggedStates | None,
) -> Grounding:
    """Grounds by recorded replies, which are cached, parsed and counted like a model's own."""
    k, recorded = config.knowledge, _recorded(config, knowledge)
    # A recorded reply that is refused cannot be asked for again.
    asker = Asker(dataclasses.replace(k, retries=1), cache)
    rules = _ask_rules(config, knowledge, asker, log, logged, recorded)
    label = rule_labeler(rules, config.cost.margin)
    provenance = (
        "written by a large language model from the knowledge text and the observation table"
        f" alone (recorded replies to version {recorded.prompt_version} of the prompt)"
    )
    return Grounding(label, "rule", k.model, rules, provenance, lambda: asker.usage, knowledge)


def _recorded(config: Config, knowledge: Knowledge) -> RecordedReplies:
    """The recorded replies that the config asks for."""
    k = config.knowledge
    if k.labeler != "rule":
        raise KnowledgeError(
            "the recorded replies are rules; use --config.knowledge.labeler=rule, or the name of a"
            " language model"
        )
    recorded = recorded_replies(knowledge)
    if k.votes > len(recorded.replies):
        raise KnowledgeError(
            f"{len(recorded.replies)} replies are recorded, found --config.knowledge.votes="
            f"{k.votes}; lower it, or use the name of a language model"
        )
    return recorded


def _ask_rules(
    config: Config,
    knowledge: Knowledge,
    asker: Asker,
    log: Log,
    logged: LoggedStates | None,
    recorded: RecordedReplies | None = None,
) -> tuple[Rule, ...]:
    questions = _rule_questions(config, knowledge, logged)
    if recorded is not None:
        for question, reply in zip(questions, recorded.replies, strict=False):
            asker.add_recorded(question, reply, recorded.messages, recorded.prompt_version)
    answers = _ask(asker, questions, config, log)
    rules = tuple(rule for rule in answers if rule is not None)
    if not rules:
        raise ModelError(
            f"the model {config.knowledge.model!r} gave no usable rule in {len(questions)} votes of"
            f" {config.knowledge.retries} tries; the last reason: {asker.problems[-1]}"
        )
    for text, votes in collections.Counter(rule.text for rule in rules).items():
        log(f"rule: {text}" + (f" ({votes} of {len(rules)} votes)" if len(rules) > 1 else ""))
    return rules


def _rule_questions(
    config: Config, knowledge: Knowledge, logged: LoggedStates | None
) -> list[Question]:
    def accept(reply: RuleReply) -> Rule:
        rule = parse_rule(reply.rule, knowledge.spec)
        if reason := _vacuous(rule, knowledge, logged):
            raise ReplyError(reason)
        return rule

    messages = rule_messages(knowledge)
    return [
        Question(messages, RuleReply, accept, vote, _RULE_TOKENS)
        for vote in range(config.knowledge.votes)
    ]


def _state_labeler(config: Config, knowledge: Knowledge, asker: Asker, log: Log) -> Labeler:
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
        answers = _ask(asker, questions, config, log)
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
        # Less than even odds would turn the label around.
        sure = np.array([max(x.confidence, 0.5) for x in reply.labels])
        unsafe = np.array([x.unsafe for x in reply.labels], bool)
        return np.where(unsafe, sure, 1.0 - sure).astype(np.float32)

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


def _ask(asker: Asker, questions: list[Question], config: Config, log: Log) -> list:
    forecast = asker.forecast(questions)
    # Recorded replies cost nothing.
    tell = log if config.knowledge.model != RECORDED_MODEL else _silent
    tell(_forecast_text(forecast, config))
    asker.check_budget(forecast)
    before = asker.unanswered
    answers = asker.ask(questions)
    u = asker.usage
    tell(
        f"{u.calls} calls so far, {u.cached} answers from the cache, {u.tokens_in} tokens in,"
        f" {u.tokens_out} out, {u.usd:.4f} USD"
    )
    if asker.unanswered > before:
        log(
            f"{asker.unanswered - before} of {len(questions)} questions got no usable answer; the"
            f" last reason: {asker.problems[-1]}"
        )
    return answers


def _silent(line: str) -> None:
    pass


def _forecast_text(forecast: Forecast, config: Config) -> str:
    k = config.knowledge
    money = "price unknown" if forecast.usd is None else f"about {forecast.usd:.4f} USD"
    return (
        f"{forecast.calls} calls to {k.model} ({money}), {forecast.cached} answers from the cache;"
        f" budget {k.budget_calls} calls, {k.budget_usd:g} USD"
    )
