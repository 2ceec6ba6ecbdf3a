"""Every setting of a run: its type, default, meaning and bounds.

`experiments/*.py` return a `Config` from `get_config(variant)`; absl flags override single values
(`--config.train.steps=5000`). The bounds of a setting stand beside its default, so that none is
forgotten; `validation.validate` checks them, and the conditions that involve several settings.
"""

import copy
import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

ALGORITHMS = ("proco", "bc", "bcq_lag", "bear_lag", "cpq", "coptidice", "cdt", "fisor")
ALGORITHM = "|".join([*ALGORITHMS, r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"])
ALGORITHM_WORDS = f"one of {ALGORITHMS} or the module:function of an algorithm of your own"
AUGMENTATIONS = ("none", "proco", "control")
SHIELDS = ("none", "filter", "planner")
REGIMES = ("safe", "limited", "full")
VERIFICATIONS = ("sampled", "full")
BEHAVIORS = ("controllers", "policies")
BACKENDS = ("batched", "official")
LABELERS = ("rule", "states")
# JAX and the simulator take seeds of 32 bits with sign.
LARGEST_SEED = 2**31 - 1
# A collection with `data.seed` k records its episodes with the seeds from
# FIRST_COLLECTION_SEED + k COLLECTION_SEED_SPAN on.
FIRST_COLLECTION_SEED = 10_000_000
COLLECTION_SEED_SPAN = 100_000
LARGEST_COLLECTION = (LARGEST_SEED + 1 - FIRST_COLLECTION_SEED) // COLLECTION_SEED_SPAN - 1
# A policy with seed k is evaluated with the episode seeds from
# `evaluation.seed` + (k mod EVALUATION_SEED_SLOTS) EVALUATION_SEED_SPACING on.
EVALUATION_SEED_SPACING = 1000
EVALUATION_SEED_SLOTS = 9000
LARGEST_COUNT = 10**9
LARGEST_WIDTH = 65_536
LARGEST_BATCH = 1_000_000
# Numbers are float32 in compiled programs; these limits keep their squares and quotients finite.
SMALLEST_NUMBER, LARGEST_NUMBER = 1e-9, 1e9
# In place of a planner's threshold: the rules alone decide, as no V_h exceeds it.
RULES_ALONE = 10.0 * LARGEST_NUMBER
# Below every predicted sum of rewards (the least float32): the planner never searches for reward.
ANY_REWARD = -3.4028234663852886e38
# Of a factor on the weight of rows: Adam squares its product with a weight limit.
LARGEST_ROW_FACTOR = 1000.0
SMALLEST_FRACTION, LARGEST_FRACTION = 1e-6, 1 - 1e-6
# Settings that change no result, so the same run may be continued with other values.
FREE_SETTINGS = ("data.verify",)
FOLDER_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
DATA_SOURCE = r"collect|(minari|dsrl|csv|parquet):.+"
# Beginnings of the sources that are tables of logs of a system of the user's own.
TABLE_SOURCES = ("csv:", "parquet:")
GAPS = ("refuse", "split")


class Bound(NamedTuple):
    """The values that a setting, or each item of a tuple, may take.

    Attributes:
      low: smallest number.
      high: largest number.
      choices: allowed words; empty for any.
      pattern: regular expression that a text must match in full; empty for any text.
      pattern_words: description of the texts that match, for messages.
      ascending: whether the items of a tuple must not decrease (a range).
      nonempty: whether a tuple or a text must not be empty.
    """

    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    pattern_words: str = ""
    ascending: bool = False
    nonempty: bool = False


def setting(default: T, **bound: Any) -> T:
    """A dataclass field with a default and the `Bound` given by keywords."""
    return dataclasses.field(default=default, metadata={"bound": Bound(**bound)})  # pyright: ignore


def share(default: float, high: float = 1.0) -> float:
    """A share from 0 to `high`."""
    return setting(default, low=0.0, high=high)


def fraction(default: float) -> float:
    """A number between 0 and 1 that float32 rounds to neither."""
    return setting(default, low=SMALLEST_FRACTION, high=LARGEST_FRACTION)


def positive(default: float) -> float:
    """A number above 0."""
    return setting(default, low=SMALLEST_NUMBER, high=LARGEST_NUMBER)


def nonnegative(default: float, high: float = LARGEST_NUMBER) -> float:
    """A number from 0 to `high`."""
    return setting(default, low=0.0, high=high)


def count(default: int, low: int = 1, high: int = LARGEST_COUNT) -> int:
    """A whole number from `low` to `high`."""
    return setting(default, low=low, high=high)


def widths(*default: int) -> tuple[int, ...]:
    """Widths of hidden layers, each at least 1."""
    return setting(default, low=1, high=LARGEST_WIDTH, nonempty=True)


def choice(default: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    return setting(default, choices=choices)


def folder_name(default: str) -> str:
    """A text that can name a folder."""
    words = "at most 100 of letters, digits, '_', '-' and '.', with a letter or digit first"
    return setting(default, pattern=FOLDER_NAME, pattern_words=words)


@dataclasses.dataclass
class SystemConfig:
    """A system of the user's own, in place of a task of Safety-Gymnasium.

    Attributes:
      file: its description, see docs/own_system.md; empty for `task`.
      env: where its policies are evaluated: the id of a Gymnasium environment, or
        `module:function` or `file.py:function` that makes one; empty to evaluate offline only.
    """

    file: str = ""
    env: str = ""


@dataclasses.dataclass
class EnvConfig:
    """The simulator.

    Attributes:
      backend: `batched` (many worlds in threads of this process) or `official` (the package's own
        environments in worker processes).
      workers: threads or processes; 0 for one per core.
    """

    backend: str = choice("batched", BACKENDS)
    workers: int = count(0, low=0, high=4096)


@dataclasses.dataclass
class CollectConfig:
    """Who acts in the episodes of the `collect` source.

    Lidar controllers: each episode draws a gain from `gains` and `threshold`, `speed` and `noise`
    uniformly from ranges. Trained policies: each episode draws a snapshot of the training, a price
    of a violation, and a share of noise from `policy_noise`.

    Attributes:
      behavior: `controllers` (navigation tasks only) or `policies`.
      policies: file of `python -m proco_jax.behaviors`; empty for that of the package.
      policy_noise: range of the noise of policies, as a share of their own standard deviation.
      gains: weights of obstacles against the goal.
      threshold: range of the lidar closeness from which an obstacle is avoided.
      speed: range of the largest forward action.
      noise: range of the scale of the temporally correlated action noise.
    """

    behavior: str = choice("controllers", BEHAVIORS)
    policies: str = ""
    policy_noise: tuple[float, float] = setting((0.5, 1.0), low=0.0, high=10.0, ascending=True)
    gains: tuple[float, ...] = setting(
        (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), low=0.0, high=1000.0, nonempty=True
    )
    threshold: tuple[float, float] = setting((0.5, 0.75), low=0.0, high=1.0, ascending=True)
    speed: tuple[float, float] = setting((0.3, 0.7), low=0.0, high=1.0, ascending=True)
    noise: tuple[float, float] = setting((0.05, 0.4), low=0.0, high=10.0, ascending=True)


@dataclasses.dataclass
class DataConfig:
    """Where the logs come from and which of them are used.

    Attributes:
      source: `collect`, `minari:<dataset id>`, `dsrl:<file or task>`, or, for a system of your own,
        `csv:<file>` or `parquet:<file>`, in which a pattern such as `logs/*.csv` names several.
      root: folder of Minari datasets; empty for Minari's default.
      episodes: episodes that `collect` records.
      seed: of the collection, and of the choice of trajectories.
      regime: `safe` (only trajectories without any cost), `limited` (those and `limited_share` of
        violating ones) or `full`.
      limited_share: share of violating trajectories in the `limited` regime.
      holdout_share: share of the kept trajectories that no part is trained on.
      gaps: what happens to a table of logs with missing values or times: `refuse` it, or `split`
        episodes there.
      cost_key: of a Minari dataset of your own system, the entry of `infos` with the cost of each
        step; empty for `cost`, where nothing went wrong if there is none.
      verify: what is compared with the dataset's manifest at the start: `sampled` blocks, or the
        `full` files. It may differ between the commands of a run.
    """

    source: str = setting(
        "collect",
        pattern=DATA_SOURCE,
        pattern_words=(
            "collect, minari:<dataset id>, dsrl:<file or task>, csv:<file> or parquet:<file>"
        ),
    )
    root: str = ""
    episodes: int = count(250, high=COLLECTION_SEED_SPAN)
    seed: int = count(0, low=0, high=LARGEST_COLLECTION)
    regime: str = choice("safe", REGIMES)
    limited_share: float = share(0.05)
    holdout_share: float = share(0.1, high=LARGEST_FRACTION)
    gaps: str = choice("refuse", GAPS)
    cost_key: str = ""
    verify: str = choice("sampled", VERIFICATIONS)
    collect: CollectConfig = dataclasses.field(default_factory=CollectConfig)


@dataclasses.dataclass
class EncoderConfig:
    """The observation encoder whose form every network shares.

    Attributes:
      rings: whether ring fields are encoded as rings (False: a plain layer).
      bin_hidden: widths of the network shared over the bins of a ring.
      features: width of the encoding.
      neighbors: bins seen on either side of each bin.
    """

    rings: bool = True
    bin_hidden: tuple[int, ...] = widths(32, 32)
    features: int = count(128, high=LARGEST_WIDTH)
    neighbors: int = count(1, low=0, high=64)


@dataclasses.dataclass
class TrajectoryFitConfig:
    """The second part of the dynamics fit: errors of whole predicted trajectories.

    Attributes:
      steps: gradient steps, e.g. 600; 0 leaves the fit at single transitions.
      horizon: steps of a trajectory, through all of which gradients flow.
      batch: trajectories per step, drawn for each member separately.
      learning_rate: of Adam at the start; decays to 0 over the steps by a cosine.
      nearest_weight: weight of the error in each ring's nearest object.
      reward_weight: weight of the error in the reward.
    """

    steps: int = count(0, low=0)
    horizon: int = count(12, high=1000)
    batch: int = count(64, high=LARGEST_BATCH)
    learning_rate: float = positive(1e-3)
    nearest_weight: float = nonnegative(0.3)
    reward_weight: float = nonnegative(0.05)


@dataclasses.dataclass
class DynamicsConfig:
    """The ensemble dynamics model (MOPO, Yu et al. 2020; MOBILE, Sun et al. 2023).

    Attributes:
      members: networks in the ensemble.
      elites: members, best by holdout error, that predict.
      bin_hidden: widths of the per-bin network.
      neighbors: bins seen on either side of each bin.
      hidden: widths of the network for all other fields.
      steps: gradient steps.
      batch: transitions per step, drawn for each member separately.
      learning_rate: of Adam at the start; decays to 0 over the steps by a cosine.
      nearest_weight: weight of the error in each ring's nearest object.
      holdout_every: steps between measurements of the holdout error; the best parameters are kept.
      trajectory: the fit to trajectories, which follows the fit to single transitions.
    """

    members: int = count(5, high=1000)
    elites: int = count(4, high=1000)
    bin_hidden: tuple[int, ...] = widths(64, 64)
    neighbors: int = count(2, low=0, high=64)
    hidden: tuple[int, ...] = widths(200, 200)
    steps: int = count(4000)
    batch: int = count(256, high=LARGEST_BATCH)
    learning_rate: float = positive(3e-3)
    nearest_weight: float = nonnegative(0.1)
    holdout_every: int = count(500)
    trajectory: TrajectoryFitConfig = dataclasses.field(default_factory=TrajectoryFitConfig)


@dataclasses.dataclass
class BonusConfig:
    """The event model of rare bonuses, such as that of a reached goal (`models/bonus.py`).

    Attributes:
      members: networks in the ensemble, of which the least probability counts.
      steps: gradient steps.
      batch: transitions per step, a quarter of them drawn from the events.
      learning_rate: of Adam at the start; decays to 0 over the steps by a cosine.
    """

    members: int = count(3, high=1000)
    steps: int = count(1500)
    batch: int = count(256, low=4, high=LARGEST_BATCH)
    learning_rate: float = positive(3e-3)


@dataclasses.dataclass
class KnowledgeConfig:
    """What is unsafe, and who labels states accordingly.

    Attributes:
      model: `recorded` for the recorded replies of a language model to the package's knowledge,
        `shipped` for the rule in the knowledge file, `offline` for the first where there are such
        replies, else the second, or the litellm name of a model.
      file: knowledge file; empty for the task's own.
      text: what is unsafe, in place of the file's text and rule; requires a language model.
      api_base: address of an OpenAI-compatible server; empty for the provider's.
      cache: JSON lines file of paid replies, which runs may share; empty for `replies.jsonl` in
        the workdir.
      labeler: `rule` (the model writes rules) or `states` (it labels states).
      states: states that a model labels.
      rule_states: states that a rule labels.
      boundary_share: share of those states taken from near the boundary.
      votes: independent answers to each question.
      rounds: most rounds of questions; after the first round, about states on which the cost
        ensemble disagrees, until it finds `cost.recall` of the unsafe ones among them.
      batch: described states per question.
      temperature: sampling temperature of the model.
      max_tokens: most tokens of a reply, reasoning included; 0 for the provider's default.
      budget_usd: most money that a run may spend.
      budget_calls: most calls that a run may make.
      concurrency: concurrent calls.
      timeout_s: seconds after which a call is given up.
      retries: attempts for each call, malformed replies included.
    """

    model: str = setting("offline", nonempty=True)
    file: str = ""
    text: str = ""
    api_base: str = ""
    cache: str = ""
    labeler: str = choice("rule", LABELERS)
    states: int = count(512, high=1_000_000)
    rule_states: int = count(100_000, high=100_000_000)
    boundary_share: float = share(0.5)
    votes: int = count(3, high=1000)
    rounds: int = count(4, high=1000)
    batch: int = count(16, high=10_000)
    temperature: float = setting(0.7, low=0.0, high=2.0)
    max_tokens: int = count(0, low=0, high=1_000_000)
    budget_usd: float = nonnegative(1.0)
    budget_calls: int = count(500, low=0)
    concurrency: int = count(4, high=1000)
    timeout_s: float = setting(60.0, low=0.1, high=86_400.0)
    retries: int = count(3, high=1000)


@dataclasses.dataclass
class CostConfig:
    """The conservative cost network.

    Attributes:
      members: networks in the ensemble.
      hidden: widths behind the encoder.
      steps: gradient steps.
      batch: labeled states per step.
      learning_rate: of Adam; decays to 0 over the steps by a cosine.
      margin: how much wider than the constraint the labels are, in the unit of the rule (meters
        for distances).
      miss_weight: weight of a missed unsafe state relative to a false alarm.
      ucb_coefficient: standard deviations over the ensemble added to its mean.
      recall: share of unsafe held-out labels that the threshold must find.
      holdout_share: share of the labels kept for the threshold.
    """

    members: int = count(3, high=1000)
    hidden: tuple[int, ...] = widths(128)
    steps: int = count(3000)
    batch: int = count(512, high=LARGEST_BATCH)
    learning_rate: float = positive(1e-3)
    margin: float = nonnegative(0.05)
    miss_weight: float = positive(3.0)
    ucb_coefficient: float = nonnegative(1.0)
    recall: float = fraction(0.99)
    holdout_share: float = setting(0.2, low=SMALLEST_FRACTION, high=0.5)


@dataclasses.dataclass
class RolloutConfig:
    """Imagined rollouts in the dynamics model.

    Attributes:
      horizon: steps imagined from each start.
      starts: starts of one regeneration, for each elite.
      candidates: action sequences of which the riskiest is chosen.
      risk_share: share of starts with risk-seeking actions; half of the others take noisy logged
        actions, half follow the current policy.
      recovery_share: recovery rollouts per start: they begin within imagined trajectories and
        take the least risky of `candidates` sequences.
      risky_start_share: share of starts drawn from the logged states with the highest scores of
        the cost network.
      risky_top: the share of logged states that counts as such.
      noise: scale of the noise on logged actions.
      persistence: mean number of steps for which a random action is held.
      disagreement_quantile: rollouts end where the ensemble's disagreement exceeds
        `disagreement_slack` times this quantile of its disagreement on the logs.
      disagreement_slack: factor on that quantile.
      interval: training steps between regenerations.
      generations: regenerations kept in the buffer.
      warmup: regenerations before the first training step.
    """

    horizon: int = count(20, high=10_000)
    starts: int = count(64, high=LARGEST_BATCH)
    candidates: int = count(8, high=100_000)
    risk_share: float = share(0.7)
    recovery_share: float = share(0.5)
    risky_start_share: float = share(0.7)
    risky_top: float = setting(0.1, low=SMALLEST_FRACTION, high=1.0)
    noise: float = nonnegative(0.2)
    persistence: float = setting(12.0, low=1.0, high=LARGEST_NUMBER)
    disagreement_quantile: float = fraction(0.99)
    disagreement_slack: float = positive(2.0)
    interval: int = count(250)
    generations: int = count(8, high=10_000)
    warmup: int = count(4, high=10_000)


@dataclasses.dataclass
class ExplorationConfig:
    """Rollouts that find states to label, before there is a cost network.

    They are risk-seeking in the score of a rule, or random without one.

    Attributes:
      horizon: steps imagined from each start.
      starts: starts of one batch of rollouts, for each elite.
      candidates: action sequences of which the riskiest is chosen.
      risk_share: share of starts with risk-seeking actions; half of the others take noisy logged
        actions, half random ones.
      recovery_share: recovery rollouts per start.
      risky_start_share: share of starts drawn from the logged states with the highest scores.
      risky_top: the share of logged states that counts as such.
      noise: scale of the noise on logged actions.
      persistence: mean number of steps for which a random action is held.
    """

    horizon: int = count(20, high=10_000)
    starts: int = count(64)
    candidates: int = count(8)
    risk_share: float = share(0.7)
    recovery_share: float = share(0.5)
    risky_start_share: float = share(0.7)
    risky_top: float = setting(0.1, low=SMALLEST_FRACTION, high=1.0)
    noise: float = nonnegative(0.2)
    persistence: float = setting(12.0, low=1.0, high=LARGEST_NUMBER)


@dataclasses.dataclass
class AugmentationConfig:
    """How much of a training batch an augmentation imagines.

    Attributes:
      imagined_share: share of each batch that is imagined; with 0, the augmentation only relabels
        the logs.
      violating_share: share of the imagined rows that come from violating trajectories.
      episode_share: share of the logged rows whose place rows of imagined episodes take, where
        `proco.imagination.updates` is positive, for all algorithms but `proco`.
    """

    imagined_share: float = share(0.5, high=0.99)
    violating_share: float = share(0.5)
    episode_share: float = share(0.9)


@dataclasses.dataclass
class FeasibilityConfig:
    """Feasibility critics Q_h and V_h (FISOR, Zheng et al. 2024).

    Attributes:
      hidden: widths of each head behind the encoder.
      learning_rate: of Adam.
      unsafe: constraint value h of an unsafe state.
      safe: constraint value h of a safe state.
      discount: of the reachability backup.
      violation_discount: of the backup within a violation, by which a violation counts by its
        length, see `losses.reachability_target`; 0 is the published backup.
      expectile: of V_h's regression on the lower side of Q_h.
      tau: rate of the target network's moving average.
      pretrained_encoder: whether the critics' encoders begin as that of the cost network, where the
        augmentation has one.
    """

    hidden: tuple[int, ...] = widths(128)
    learning_rate: float = positive(3e-4)
    unsafe: float = positive(25.0)
    safe: float = setting(-1.0, low=-LARGEST_NUMBER, high=-SMALLEST_NUMBER)
    discount: float = fraction(0.99)
    violation_discount: float = share(0.9, high=LARGEST_FRACTION)
    expectile: float = fraction(0.9)
    tau: float = fraction(0.05)
    pretrained_encoder: bool = True


@dataclasses.dataclass
class ImaginationConfig:
    """The policy's improvement in imagination, after its regression (`algorithms/imagination.py`).

    Attributes:
      updates: in all, e.g. 600; 0 leaves the policy as the regression gave it.
      warmup: of them, the first, which fit the values alone.
      interval: updates between refreshes of the augmentation with what would be deployed then.
      critic_steps: gradient steps of the feasibility critics after each refresh.
      worlds: imagined worlds that continue across the updates.
      horizon: steps in each of them per update.
      age: steps after which a world ends with probability 0.1 per step.
      epochs: passes over the steps of an update.
      minibatches: gradient steps per pass.
      elites: members of the dynamics ensemble that predict, the best ones.
      learning_rate: of the policy's Adam; decays linearly to a tenth.
      discount: of rewards.
      cost_discount: of costs.
      gae: lambda of generalized advantage estimation.
      clip: how far from 1 the ratio of action densities counts.
      likelihood_weight: of the log-likelihood of logged actions.
      multiplier: of the cost advantage, at the start.
      multiplier_rate: its largest relative change per update, by dual ascent; 0 keeps it as it is.
      multiplier_limit: its largest value.
      target_cost: unsafe states per 1,000 steps, by the accurate cost network, that the multiplier
        is adapted to.
      risky_start_share: of the starts, those drawn from the riskiest logged states.
      episodes: imagined by the improved policies of all seeds together, from which other algorithms
        learn.
    """

    updates: int = count(0, low=0)
    warmup: int = count(10, low=0)
    interval: int = count(10)
    critic_steps: int = count(25, low=0)
    worlds: int = count(256, high=LARGEST_BATCH)
    horizon: int = count(20, high=10_000)
    age: int = count(1000)
    epochs: int = count(4, high=1000)
    minibatches: int = count(16, high=1000)
    elites: int = count(2, high=1000)
    learning_rate: float = positive(3e-4)
    discount: float = fraction(0.99)
    cost_discount: float = fraction(0.99)
    gae: float = fraction(0.95)
    clip: float = fraction(0.2)
    likelihood_weight: float = nonnegative(0.01)
    multiplier: float = nonnegative(0.01)
    multiplier_rate: float = share(0.04)
    multiplier_limit: float = nonnegative(2.0)
    target_cost: float = setting(8.0, low=1e-3, high=1000.0)
    risky_start_share: float = share(0.3)
    episodes: int = count(256, high=LARGEST_BATCH)


@dataclasses.dataclass
class ProcoConfig:
    """PROCO's feasibility-constrained actor-critic (`algorithms/proco.py`).

    Attributes:
      hidden: widths of each head behind the encoder.
      learning_rate: of Adam; that of reward critic and policy decays to 0 by a cosine.
      tau: rate of the target network's moving average.
      discount: of rewards.
      expectile: of the reward value.
      reward_temperature: of the weight on the reward advantage, in units of its usual size.
      cost_temperature: of the weight on the feasibility advantage.
      reward_weight_limit: largest weight of a feasible row.
      cost_weight_limit: largest weight of an infeasible row.
      imagined_weight: factor on the weights of imagined rows.
      imagination: the policy's improvement after the regression.
    """

    hidden: tuple[int, ...] = widths(128)
    learning_rate: float = positive(3e-4)
    tau: float = fraction(0.05)
    discount: float = fraction(0.99)
    expectile: float = fraction(0.7)
    reward_temperature: float = nonnegative(4.0)
    cost_temperature: float = positive(1.0)
    reward_weight_limit: float = positive(20.0)
    cost_weight_limit: float = positive(10.0)
    imagined_weight: float = nonnegative(0.05, high=LARGEST_ROW_FACTOR)
    imagination: ImaginationConfig = dataclasses.field(default_factory=ImaginationConfig)


@dataclasses.dataclass
class BcConfig:
    """Behavior cloning (`algorithms/bc.py`).

    Attributes:
      hidden: widths of the policy's head behind the encoder.
      learning_rate: of Adam; decays to 0 by a cosine.
      safe_only: clone only rows after which no violation follows within the n-step window.
    """

    hidden: tuple[int, ...] = widths(128)
    learning_rate: float = positive(3e-4)
    safe_only: bool = True


@dataclasses.dataclass
class BcqLagConfig:
    """Batch-constrained Q-learning with a cost constraint (`algorithms/bcq_lag.py`).

    Attributes:
      hidden: widths of critics and perturbation behind the encoder.
      vae_hidden: widths of encoder and decoder of the VAE behind the encoder of observations.
      samples: proposals from which the next action of a backup, and the executed one, are chosen.
      learning_rate: of Adam, for all networks.
      discount: of rewards and costs.
      tau: rate of the target networks' moving averages.
      reward_scale: factor on rewards; the gains below depend on it.
      kl_weight: of the KL divergence in the VAE's loss.
      perturbation: largest shift of a proposal, actions being in [-1, 1].
      soft_minimum: weight of the more pessimistic of the two groups of critics in a backup.
      proportional_gain: of the multiplier on the excess cost value.
      integral_gain: of the multiplier on the sum of excesses.
      derivative_gain: of the multiplier on the increase of the excess.
      integral_limit: largest sum of excesses; with its gain, the multiplier's part from it is 3.
      as_published: what the published code does, see `algorithms/bcq_lag.py`.
    """

    hidden: tuple[int, ...] = widths(128)
    vae_hidden: tuple[int, ...] = widths(128)
    samples: int = count(10, high=10_000)
    learning_rate: float = positive(1e-3)
    discount: float = fraction(0.99)
    tau: float = fraction(0.005)
    reward_scale: float = positive(0.1)
    kl_weight: float = nonnegative(0.5)
    perturbation: float = setting(0.05, low=0.0, high=2.0)
    soft_minimum: float = share(0.75)
    proportional_gain: float = nonnegative(0.1)
    integral_gain: float = nonnegative(0.003)
    derivative_gain: float = nonnegative(0.001)
    integral_limit: float = nonnegative(1000.0)
    as_published: bool = False


@dataclasses.dataclass
class BearLagConfig:
    """Bootstrapping error reduction with a cost constraint (`algorithms/bear_lag.py`).

    Attributes:
      hidden: widths of critics and policy behind the encoder.
      vae_hidden: widths of encoder and decoder of the VAE behind the encoder of observations.
      samples: actions of the policy, and as many of the VAE, in the MMD; also those from which the
        next action of a backup, and the executed one, are chosen.
      learning_rate: of Adam, for all networks.
      alpha_learning_rate: of the logarithm of the multiplier of the MMD, by plain ascent.
      discount: of rewards and costs.
      tau: rate of the target networks' moving averages.
      reward_scale: factor on rewards; the gains below depend on it.
      kl_weight: of the KL divergence in the VAE's loss.
      mmd_bandwidth: b of the kernel exp(-|x - y|^2 / (2 b)) on actions before the tanh.
      mmd_target: largest MMD between the policy's actions and the VAE's.
      soft_minimum: weight of the more pessimistic of the two groups of critics in a backup.
      proportional_gain: of the multiplier on the excess cost value.
      integral_gain: of the multiplier on the sum of excesses.
      derivative_gain: of the multiplier on the increase of the excess.
      integral_limit: largest sum of excesses; with its gain, the multiplier's part from it is 3.
      as_published: what the published code does, see `algorithms/bear_lag.py`.
    """

    hidden: tuple[int, ...] = widths(128)
    vae_hidden: tuple[int, ...] = widths(128)
    samples: int = count(10, high=10_000)
    learning_rate: float = positive(1e-3)
    alpha_learning_rate: float = positive(1e-3)
    discount: float = fraction(0.99)
    tau: float = fraction(0.005)
    reward_scale: float = positive(0.1)
    kl_weight: float = nonnegative(0.5)
    mmd_bandwidth: float = positive(50.0)
    mmd_target: float = nonnegative(0.05)
    soft_minimum: float = share(0.75)
    proportional_gain: float = nonnegative(0.1)
    integral_gain: float = nonnegative(0.003)
    derivative_gain: float = nonnegative(0.001)
    integral_limit: float = nonnegative(1000.0)
    as_published: bool = False


@dataclasses.dataclass
class CpqConfig:
    """Constraints penalized Q-learning (`algorithms/cpq.py`).

    Attributes:
      hidden: widths of critics and policy behind the encoder.
      vae_hidden: widths of encoder and decoder of the VAE behind the encoder of observations.
      samples: actions of the policy per state, of which the rare ones are pushed.
      learning_rate: of Adam, for critics and VAE.
      policy_learning_rate: of Adam, for the policy.
      alpha_learning_rate: of the logarithm of the weight of the push, by plain ascent.
      discount: of rewards and costs.
      tau: rate of the target networks' moving averages.
      reward_scale: factor on rewards.
      kl_weight: of the KL divergence in the VAE's loss.
      rare_share: share of the sampled actions that count as rare, `as_published`.
      rare_quantile: share of the logged actions that are less rare than an action that counts as
        rare, otherwise.
      push_target: cost value that rare actions are to have, as a multiple of the limit.
      violation_weight: weight of the descent of the cost value where it exceeds the limit.
      as_published: what the published code does, see `algorithms/cpq.py`.
    """

    hidden: tuple[int, ...] = widths(128)
    vae_hidden: tuple[int, ...] = widths(128)
    samples: int = count(10, high=10_000)
    learning_rate: float = positive(1e-3)
    policy_learning_rate: float = positive(1e-4)
    alpha_learning_rate: float = positive(1e-4)
    discount: float = fraction(0.99)
    tau: float = fraction(0.005)
    reward_scale: float = positive(0.1)
    kl_weight: float = nonnegative(0.5)
    rare_share: float = fraction(0.25)
    rare_quantile: float = fraction(0.99)
    push_target: float = nonnegative(1.5)
    violation_weight: float = nonnegative(1.0)
    as_published: bool = False


@dataclasses.dataclass
class CoptidiceConfig:
    """COptiDICE (`algorithms/coptidice.py`).

    Attributes:
      hidden: widths of each head behind the encoder.
      learning_rate: of Adam for the networks; decays to 0 by a cosine.
      multiplier_learning_rate: of Adam for the multipliers of cost and divergence.
      discount: of rewards and costs.
      alpha: weight of the divergence from the logs, in the unit of rewards.
      kl_limit: divergence of the distributions that the upper bound of the cost covers.
      noise: blur of the policy's data, in standard deviations of the batch.
      imagined_weight: factor on the weights of imagined rows in the policy's loss.
      as_published: as the published code where it differs from the paper.
    """

    hidden: tuple[int, ...] = widths(128)
    learning_rate: float = positive(3e-4)
    multiplier_learning_rate: float = positive(3e-3)
    discount: float = fraction(0.99)
    alpha: float = positive(0.1)
    kl_limit: float = positive(0.01)
    noise: float = nonnegative(0.1)
    imagined_weight: float = nonnegative(0.05, high=LARGEST_ROW_FACTOR)
    as_published: bool = False


@dataclasses.dataclass
class CdtConfig:
    """The Constrained Decision Transformer (`algorithms/cdt.py`).

    Attributes:
      width: of tokens, a multiple of `heads`.
      layers: of the transformer.
      heads: of its attention.
      context: steps that it sees, the present one included.
      batch: logged segments of so many steps per gradient step.
      learning_rate: of AdamW; decays to 0 by a cosine, unless `as_published`.
      temperature_learning_rate: of Adam for the logarithm of the entropy's temperature.
      weight_decay: of AdamW.
      gradient_limit: largest norm of a gradient.
      warmup_steps: steps over which the learning rate rises linearly.
      dropout: rate of dropout of tokens, attention and residual paths.
      reward_scale: factor on returns to go.
      initial_temperature: of the entropy.
      cost_weight: of the loss of predicted costs.
      state_weight: of the loss of predicted observations.
      imagined_weight: factor on the weights of imagined steps in the action loss.
      target_cost: cost to go at the start of an episode, as a multiple of the cost limit.
      target_return: return to go at the start of an episode; 0 for the quantile below.
      target_quantile: of the returns of the logged episodes whose cost is within the target.
      as_published: what the published code does, see `algorithms/cdt.py`.
    """

    width: int = count(64, high=LARGEST_WIDTH)
    layers: int = count(2, high=1000)
    heads: int = count(4, high=1000)
    context: int = count(10, high=10_000)
    batch: int = count(32, high=LARGEST_BATCH)
    learning_rate: float = positive(1e-4)
    temperature_learning_rate: float = positive(1e-4)
    weight_decay: float = nonnegative(1e-4)
    gradient_limit: float = positive(0.25)
    warmup_steps: float = nonnegative(500.0)
    dropout: float = share(0.1, high=0.9)
    reward_scale: float = positive(0.1)
    initial_temperature: float = positive(0.1)
    cost_weight: float = nonnegative(0.02)
    state_weight: float = nonnegative(0.0)
    imagined_weight: float = nonnegative(0.05, high=LARGEST_ROW_FACTOR)
    target_cost: float = nonnegative(1.0)
    target_return: float = setting(0.0, low=-LARGEST_NUMBER, high=LARGEST_NUMBER)
    target_quantile: float = share(0.9)
    as_published: bool = False


@dataclasses.dataclass
class FisorConfig:
    """FISOR (`algorithms/fisor.py`); its feasibility critics have the settings `feasibility`.

    Attributes:
      hidden: widths of each head of the reward critics behind the encoder.
      learning_rate: of Adam; decays to 0 by a cosine.
      tau: rate of the target network's moving average.
      discount: of rewards.
      expectile: of the reward value.
      reward_temperature: of the weight on the reward advantage, in units of its usual size.
      cost_temperature: of the weight on the feasibility advantage.
      reward_weight_limit: largest weight of a feasible row.
      cost_weight_limit: largest weight of an infeasible row.
      imagined_weight: factor on the weights of imagined rows.
      diffusion_steps: steps of denoising.
      width: of the policy's residual blocks.
      blocks: residual blocks of the policy.
      time_features: width of the encoding of a diffusion step.
      dropout: rate of dropout in the policy.
      policy_tau: rate of the moving average of the policy's parameters, which acts.
      candidates: sampled actions of which the one with the least Q_h is executed; 1 for a plain
        sample.
      as_published: as the published code where it differs from the paper.
    """

    hidden: tuple[int, ...] = widths(128)
    learning_rate: float = positive(3e-4)
    tau: float = fraction(0.05)
    discount: float = fraction(0.99)
    expectile: float = fraction(0.9)
    reward_temperature: float = nonnegative(3.0)
    cost_temperature: float = positive(5.0)
    reward_weight_limit: float = positive(100.0)
    cost_weight_limit: float = positive(150.0)
    imagined_weight: float = nonnegative(0.05, high=LARGEST_ROW_FACTOR)
    diffusion_steps: int = count(5, high=10_000)
    width: int = count(128, high=LARGEST_WIDTH)
    blocks: int = count(3, high=1000)
    time_features: int = count(32, low=2, high=LARGEST_WIDTH)
    dropout: float = share(0.1, high=0.9)
    policy_tau: float = fraction(0.005)
    candidates: int = count(16, high=100_000)
    as_published: bool = False


@dataclasses.dataclass
class ShieldConfig:
    """What guards a policy at deployment.

    Attributes:
      samples: actions of the policy from which the filter chooses.
      qh_threshold: the largest Q_h of an action that the filter accepts.
      planner_threshold: the largest V_h that the planner accepts. With rules: of the last state of
        a sequence, if the rules alone are not deployed. Without: of every fifth state and the last
        one; from `feasibility.unsafe` on no state is infeasible for the planner.
      margin_coverage: share of logged stretches, begun near the unsafe set, in which the margin
        after 10 steps exceeds the predicted one by no more than the planner widens the rules. 0
        always takes the least margin, 1 the most.
      least_margin: by how much the planner widens the rules at least, in units of `cost.margin`.
      most_margin: likewise, at most. A wider margin where the model errs more is safer and costs
        return; more than 1 has been measured on navigation tasks alone.
      reward_quantile: the planner also searches where the policy's own continuation is feasible,
        but predicted to earn less than nothing, and less than this quantile of what the logs earn
        in `planner_horizon` steps, unless logged episodes end early. 0: never for reward alone,
        which would exploit the errors of a model that is wrong beyond the logs.
      planner_horizon: steps of the sequences that the planner imagines.
      planner_variations: continuations of the policy with persistent noise in a search.
      planner_noise: standard deviation of that noise.
      planner_candidates: random action sequences in a search.
      planner_block: states planned for in one batch; 0 chooses by backend.
      target_violation_rate: forecast share of violating episodes up to which the rules alone are
        deployed; else the largest threshold for which the upper end of the forecast is within it. 0
        keeps `planner_threshold`.
      forecast_starts: logged states per policy from which the forecast begins; up to four times as
        many where it cannot tell whether the rules alone suffice.
    """

    samples: int = count(16, high=100_000)
    qh_threshold: float = setting(0.0, low=-LARGEST_NUMBER, high=LARGEST_NUMBER)
    planner_threshold: float = setting(2.0, low=-LARGEST_NUMBER, high=LARGEST_NUMBER)
    margin_coverage: float = share(0.95)
    least_margin: float = share(0.4)
    most_margin: float = setting(1.0, low=1.0, high=LARGEST_NUMBER)
    reward_quantile: float = share(0.0)
    planner_horizon: int = count(25, high=10_000)
    planner_variations: int = count(8, high=100_000)
    planner_noise: float = nonnegative(0.5)
    planner_candidates: int = count(32, high=100_000)
    planner_block: int = count(0, low=0, high=100_000)
    target_violation_rate: float = share(0.15, high=LARGEST_FRACTION)
    forecast_starts: int = count(128, high=LARGEST_BATCH)


@dataclasses.dataclass
class TrainConfig:
    """The compiled training loop.

    Attributes:
      steps: gradient steps of a policy.
      batch: logged rows per step.
      n_step: length of the window of following steps that each row carries.
      chunk: steps in one call of the compiled program.
      checkpoint_every: steps between checkpoints, a multiple of `chunk`.
    """

    steps: int = count(4000)
    batch: int = count(256, high=LARGEST_BATCH)
    n_step: int = count(10, high=10_000)
    chunk: int = count(250)
    checkpoint_every: int = count(1000)


@dataclasses.dataclass
class EvalConfig:
    """Evaluation in the simulator.

    Attributes:
      episodes: per policy at the end of training, for each shield.
      interim_episodes: per policy during training, without shield; 0 for none.
      interim_every: training steps between interim evaluations.
      seed: first episode seed of the policy with seed 0; those of the next policy begin
        `EVALUATION_SEED_SPACING` later. All are below the seeds of collections.
      worlds: simulators stepped together, shared evenly by the policies.
    """

    episodes: int = count(20, high=EVALUATION_SEED_SPACING)
    interim_episodes: int = count(2, low=0, high=EVALUATION_SEED_SPACING)
    interim_every: int = count(2000)
    seed: int = count(1_000_000, low=0, high=FIRST_COLLECTION_SEED - EVALUATION_SEED_SPACING)
    worlds: int = count(40, high=100_000)


@dataclasses.dataclass
class Config:
    """One run: every algorithm with every augmentation, each policy under every shield.

    Attributes:
      experiment: name of the experiment, and of its default workdir.
      variant: name of the variant.
      task: Safety-Gymnasium task, e.g. `SafetyCarButton1`; with `system.file`, it becomes the name
        in the description.
      cost_limit: cost per episode that a policy may cause.
      seeds: policies trained in one program.
      seed: the first of their seeds.
      algorithms: what learns, of `ALGORITHMS`, or `module:function` for an algorithm of your own,
        see `algorithms.make_algorithm`.
      augmentations: what generates costs and imagined rows in training, of `AUGMENTATIONS`.
      shields: what guards the policies at deployment, of `SHIELDS`.
    """

    experiment: str = folder_name("unnamed")
    variant: str = folder_name("default")
    task: str = setting("SafetyPointGoal1", nonempty=True)
    cost_limit: float = positive(10.0)
    seeds: int = count(5, high=EVALUATION_SEED_SLOTS)
    seed: int = count(0, low=0, high=LARGEST_SEED - 1)
    algorithms: tuple[str, ...] = setting(
        ("proco",), pattern=ALGORITHM, pattern_words=ALGORITHM_WORDS, nonempty=True
    )
    augmentations: tuple[str, ...] = setting(
        ("proco", "none"), choices=AUGMENTATIONS, nonempty=True
    )
    shields: tuple[str, ...] = setting(SHIELDS, choices=SHIELDS, nonempty=True)
    system: SystemConfig = dataclasses.field(default_factory=SystemConfig)
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    dynamics: DynamicsConfig = dataclasses.field(default_factory=DynamicsConfig)
    bonus: BonusConfig = dataclasses.field(default_factory=BonusConfig)
    knowledge: KnowledgeConfig = dataclasses.field(default_factory=KnowledgeConfig)
    cost: CostConfig = dataclasses.field(default_factory=CostConfig)
    exploration: ExplorationConfig = dataclasses.field(default_factory=ExplorationConfig)
    rollouts: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    feasibility: FeasibilityConfig = dataclasses.field(default_factory=FeasibilityConfig)
    proco: ProcoConfig = dataclasses.field(default_factory=ProcoConfig)
    bc: BcConfig = dataclasses.field(default_factory=BcConfig)
    bcq_lag: BcqLagConfig = dataclasses.field(default_factory=BcqLagConfig)
    bear_lag: BearLagConfig = dataclasses.field(default_factory=BearLagConfig)
    cpq: CpqConfig = dataclasses.field(default_factory=CpqConfig)
    coptidice: CoptidiceConfig = dataclasses.field(default_factory=CoptidiceConfig)
    cdt: CdtConfig = dataclasses.field(default_factory=CdtConfig)
    fisor: FisorConfig = dataclasses.field(default_factory=FisorConfig)
    shield: ShieldConfig = dataclasses.field(default_factory=ShieldConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvalConfig = dataclasses.field(default_factory=EvalConfig)


def to_json(config: Config) -> str:
    """The config as JSON text, keys in the order of the classes."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      ValueError: if the text is not a config of this version, naming what is wrong with it.
    """
    try:
        config: Config = _from_mapping(Config, json.loads(text))
    except (TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"not a config of this version: {error}") from error
    return config


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of every setting; tuples become lists."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(config: Config, stored_json: str) -> list[str]:
    """Lines `name: stored -> now` for the settings that differ from a stored config.

    Those of `FREE_SETTINGS` may differ.
    """
    stored = _flatten_mapping(json.loads(stored_json))
    now = flatten(config)
    names = [*now, *(name for name in stored if name not in now)]
    names = [name for name in names if name not in FREE_SETTINGS]
    absent = "(absent)"
    return [
        f"{name}: {stored.get(name, absent)!r} -> {now.get(name, absent)!r}"
        for name in names
        if stored.get(name, absent) != now.get(name, absent)
    ]


def replaced(config: Config, settings: Mapping[str, Any]) -> Config:
    """A copy of a config with some settings replaced; the two share no section.

    Args:
      config: stays as it is.
      settings: values by dotted names, e.g. `{"train.steps": 5000}`.

    Raises:
      ValueError: on a name that is no setting.
    """
    result = copy.deepcopy(config)
    known = flatten(result)
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"found {name!r}, expected the dotted name of a setting")
        *path, field = name.split(".")
        setattr(functools.reduce(getattr, path, result), field, value)
    return result


def _from_mapping(kind: Any, mapping: dict[str, Any]) -> Any:
    defaults = kind()
    values = {}
    for name, value in mapping.items():
        default = getattr(defaults, name)
        if dataclasses.is_dataclass(default):
            value = _from_mapping(type(default), value)
        values[name] = tuple(value) if isinstance(default, tuple) else value
    return kind(**values)


def _flatten_mapping(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, dict):
            flat |= _flatten_mapping(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
