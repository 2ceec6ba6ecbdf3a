"""Every setting of a run, typed; the only home of a default.

`experiments/*.py` return a `Config` from `get_config(variant)`; absl flags
override single values (`--config.train.steps=5000`).
"""

import dataclasses
import json
import math
from typing import Any

from proco_jax.config.rules import rules
from proco_jax.config.value_types import type_problems


@dataclasses.dataclass
class EnvConfig:
    """The simulator. `workers` 0 means one thread or process for each core."""

    backend: str = "batched"
    workers: int = 0


@dataclasses.dataclass
class CollectConfig:
    """The mixture of lidar controllers behind the `collect` source.

    Each episode draws a gain from `gains` and the rest uniformly from the
    ranges. `gain` weighs obstacles against the goal, `threshold` is the lidar
    closeness from which an obstacle is heeded, `speed` the largest forward
    action, `noise` the scale of temporally correlated action noise.
    """

    gains: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    threshold: tuple[float, float] = (0.5, 0.75)
    speed: tuple[float, float] = (0.3, 0.7)
    noise: tuple[float, float] = (0.05, 0.4)


@dataclasses.dataclass
class DataConfig:
    """Where the logs come from and which of them are used.

    Attributes:
      source: `collect`, `minari:<dataset id>`, or `dsrl:<file or task>`.
      root: folder of Minari datasets; empty for Minari's own default.
      episodes: how many episodes `collect` records.
      seed: seed of the collection.
      regime: `safe` (only trajectories without any cost), `limited` (those
        and `limited_share` of violating ones) or `full`.
      limited_share: share of violating trajectories in the `limited` regime.
      holdout_share: share of the kept trajectories that no part trains on.
    """

    source: str = "collect"
    root: str = ""
    episodes: int = 250
    seed: int = 0
    regime: str = "safe"
    limited_share: float = 0.05
    holdout_share: float = 0.1
    collect: CollectConfig = dataclasses.field(default_factory=CollectConfig)


@dataclasses.dataclass
class EncoderConfig:
    """The observation encoder shared in form by every network.

    Attributes:
      rings: whether to treat ring fields as rings (False: a flat network).
      bin_hidden: widths of the network shared over the bins of a ring.
      features: width of the encoding.
      neighbours: bins seen on either side of each bin.
    """

    rings: bool = True
    bin_hidden: tuple[int, ...] = (32, 32)
    features: int = 128
    neighbours: int = 1


@dataclasses.dataclass
class DynamicsConfig:
    """The ensemble dynamics model (MOPO, Yu et al. 2020; MOBILE, Sun et al. 2023).

    Attributes:
      per_seed: fit one ensemble for each policy seed instead of one for all.
      members: networks in the ensemble.
      elites: members, best by holdout error, that predict.
      bin_hidden: widths of the per-bin network.
      neighbours: bins seen on either side of each bin.
      hidden: widths of the network for everything that is no ring.
      steps: gradient steps at most.
      batch: transitions a step, drawn for each member apart.
      learning_rate: of Adam at the start; falls to 0 over the steps by a cosine.
      nearest_weight: weight of the error in each ring's nearest object.
      holdout_every: steps between looks at the holdout error; what was best is
        kept.
    """

    per_seed: bool = False
    members: int = 5
    elites: int = 4
    bin_hidden: tuple[int, ...] = (64, 64)
    neighbours: int = 2
    hidden: tuple[int, ...] = (200, 200)
    steps: int = 4000
    batch: int = 256
    learning_rate: float = 3e-3
    nearest_weight: float = 0.1
    holdout_every: int = 500


@dataclasses.dataclass
class KnowledgeConfig:
    """What is unsafe, and who says so.

    Attributes:
      model: `shipped` for the grounding in the repository (offline), or a
        litellm model name.
      file: knowledge file; empty for the task's own under
        `experiments/knowledge/`.
      text: what is unsafe, in place of the file's words and rule; a model must
        then ground it.
      api_base: address of an OpenAI-compatible server; empty for the provider's.
      cache: JSON lines of paid replies, which runs may share; empty for
        `replies.jsonl` in the workdir.
      labeller: `rule` (the model writes rules) or `states` (it labels states).
      states: states that are labelled by a model.
      rule_states: states that a rule labels.
      boundary_share: share of those states taken from near the boundary.
      votes: independent answers for each question.
      rounds: most rounds of asking; after the first, about states that the
        cost ensemble disagrees on, until it finds `cost.recall` of the unsafe
        ones among them.
      batch: described states in one question.
      temperature: sampling temperature of the model.
      budget_usd: most money that a run may spend.
      budget_calls: most calls that a run may make.
      concurrency: calls under way at once.
      timeout_s: seconds that one call may take.
      retries: tries for one call, malformed replies included.
    """

    model: str = "shipped"
    file: str = ""
    text: str = ""
    api_base: str = ""
    cache: str = ""
    labeller: str = "rule"
    states: int = 512
    rule_states: int = 100_000
    boundary_share: float = 0.5
    votes: int = 3
    rounds: int = 4
    batch: int = 16
    temperature: float = 0.7
    budget_usd: float = 1.0
    budget_calls: int = 500
    concurrency: int = 4
    timeout_s: float = 60.0
    retries: int = 3


@dataclasses.dataclass
class CostConfig:
    """The conservative cost network.

    Attributes:
      members: networks in the ensemble.
      hidden: widths behind the encoder.
      steps: gradient steps.
      batch: labelled states a step.
      learning_rate: of Adam.
      margin: how much wider than the constraint the labels are, in the unit of
        the rule (metres for distances).
      miss_weight: weight of a missed unsafe state against a false alarm.
      deviations: standard deviations over the ensemble added to its mean.
      recall: share of unsafe held-out labels that the threshold must catch.
      holdout_share: share of the labels kept for the threshold.
    """

    members: int = 3
    hidden: tuple[int, ...] = (128,)
    steps: int = 3000
    batch: int = 512
    learning_rate: float = 1e-3
    margin: float = 0.05
    miss_weight: float = 3.0
    deviations: float = 1.0
    recall: float = 0.99
    holdout_share: float = 0.2


@dataclasses.dataclass
class RolloutConfig:
    """Imagined rollouts.

    Attributes:
      horizon: steps imagined from each start.
      starts: starts of one regeneration, for each elite.
      candidates: action sequences from which the riskiest is chosen.
      risk_share: share of starts with risk-seeking actions; the rest is half
        behaviour-like, half the current policy.
      escape_share: escapes for each start, from amid what was imagined.
      risky_start_share: share of starts drawn near what the cost network fears.
      risky_top: those are the logged states with the highest scores, this share.
      noise: scale of the noise on behaviour-like actions.
      persistence: mean number of steps that a random action is held.
      disagreement_quantile: rollouts end where the ensemble's disagreement
        passes this quantile of its disagreement on logged data.
      disagreement_slack: factor on that quantile.
      interval: training steps between regenerations.
      generations: regenerations kept in the sample buffer.
      warmup: regenerations before the first training step.
    """

    horizon: int = 20
    starts: int = 64
    candidates: int = 8
    risk_share: float = 0.7
    escape_share: float = 0.5
    risky_start_share: float = 0.7
    risky_top: float = 0.1
    noise: float = 0.2
    persistence: float = 12.0
    disagreement_quantile: float = 0.99
    disagreement_slack: float = 2.0
    interval: int = 250
    generations: int = 8
    warmup: int = 4


@dataclasses.dataclass
class ProcoConfig:
    """Generated costs. Disabled, the same learner is the baseline.

    Attributes:
      enabled: whether imagined samples are used at all.
      imagined_share: share of each feasibility batch that is imagined.
      violating_share: share of the imagined samples from trajectories that
        violate.
    """

    enabled: bool = True
    imagined_share: float = 0.5
    violating_share: float = 0.5


@dataclasses.dataclass
class FeasibilityConfig:
    """Feasibility critics (FISOR, Zheng et al. 2024).

    Attributes:
      unsafe: value of h in an unsafe state.
      safe: value of h in a safe state.
      discount: of the reachability backup.
      duration: how much of a violation's value is its length, see
        `losses.reachability_target`; 0 is the published backup.
      expectile: of the value's regression on the lower side.
      target_rate: of the target network's moving average. A violation has to
        travel back step by step, each through this average.
    """

    unsafe: float = 25.0
    safe: float = -1.0
    discount: float = 0.99
    duration: float = 0.9
    expectile: float = 0.9
    target_rate: float = 0.05


@dataclasses.dataclass
class AgentConfig:
    """Reward critic and policy (advantage-weighted regression, Peng et al. 2019; FISOR).

    Attributes:
      hidden: widths of each head behind the encoder.
      learning_rate: of Adam; that of reward critic and policy falls to 0 over the
        training by a cosine.
      target_rate: of the target network's moving average.
      discount: of rewards.
      lookahead: steps of a log that tell what an action earned.
      expectile: of the reward value.
      reward_scale: factor on logged rewards.
      reward_temperature: of the weight on the reward advantage, in its usual
        size; 0 clones.
      cost_temperature: of the weight on the feasibility advantage.
      reward_weight_limit: largest weight of a feasible sample.
      cost_weight_limit: largest weight of an infeasible sample.
      imagined_weight: factor on the weights of imagined samples.
      samples: actions among which a feasible one is chosen when deployed.
      feasible_up_to: the Q_h up to which one counts as feasible then.
      escapes: sequences imagined when deployed where no sample is feasible; 0 for none.
      escape_above: the lowest Q_h of the samples from which on they are imagined.
      escape_horizon: steps of each.
      risk: share of episodes that may violate, as the model foresees it; the boldest of
        `foreseen.BOUNDS` within it takes the place of the two bounds; 0 leaves them.
    """

    hidden: tuple[int, ...] = (128,)
    learning_rate: float = 3e-4
    target_rate: float = 0.05
    discount: float = 0.99
    lookahead: int = 10
    expectile: float = 0.7
    reward_scale: float = 1.0
    reward_temperature: float = 4.0
    cost_temperature: float = 1.0
    reward_weight_limit: float = 20.0
    cost_weight_limit: float = 10.0
    imagined_weight: float = 0.05
    samples: int = 16
    feasible_up_to: float = 0.0
    escapes: int = 32
    escape_above: float = 2.0
    escape_horizon: int = 15
    risk: float = 0.15


@dataclasses.dataclass
class TrainConfig:
    """The compiled loop.

    Attributes:
      steps: gradient steps of a policy.
      batch: logged transitions a step.
      chunk: steps in one call of the compiled program.
      checkpoint_every: steps between checkpoints, a multiple of `chunk`.
    """

    steps: int = 4000
    batch: int = 256
    chunk: int = 250
    checkpoint_every: int = 1000


@dataclasses.dataclass
class EvalConfig:
    """Evaluation in the simulator.

    Attributes:
      episodes: episodes a seed at the end.
      interim_episodes: episodes a seed during training, with the config's bounds on Q_h; 0
        for none.
      interim_every: training steps between interim evaluations.
      seed: first episode seed of the policy with seed 0; the next policy's are a
        thousand further. Evaluation never sees a collection seed.
      worlds: simulators stepped together, shared evenly by the policies.
      foreseen: logged states from which the model foresees how often each of
        PROCO's policies violates; 0 for none.
    """

    episodes: int = 20
    interim_episodes: int = 2
    interim_every: int = 2000
    seed: int = 1_000_000
    worlds: int = 40
    foreseen: int = 256


@dataclasses.dataclass
class Config:
    """One run.

    Attributes:
      experiment: name of the experiment, and of its default workdir.
      variant: name of the variant.
      task: Safety-Gymnasium task, e.g. `SafetyCarButton1`.
      seeds: policies trained in one program.
      seed: the first of their seeds.
      baseline: train and report the same learner without generated costs too.
    """

    experiment: str = "unnamed"
    variant: str = "default"
    task: str = "SafetyPointGoal1"
    seeds: int = 5
    seed: int = 0
    baseline: bool = True
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    dynamics: DynamicsConfig = dataclasses.field(default_factory=DynamicsConfig)
    knowledge: KnowledgeConfig = dataclasses.field(default_factory=KnowledgeConfig)
    cost: CostConfig = dataclasses.field(default_factory=CostConfig)
    rollouts: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)
    proco: ProcoConfig = dataclasses.field(default_factory=ProcoConfig)
    feasibility: FeasibilityConfig = dataclasses.field(default_factory=FeasibilityConfig)
    agent: AgentConfig = dataclasses.field(default_factory=AgentConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvalConfig = dataclasses.field(default_factory=EvalConfig)


def to_json(config: Config) -> str:
    """The resolved config as JSON text, keys in the order of the classes."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      ValueError: if the text is not a config, naming what is wrong with it.
    """
    try:
        config: Config = _from_mapping(Config, json.loads(text))
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a config of this version: {error}") from error
    return config


def _from_mapping(kind: Any, mapping: dict[str, Any]) -> Any:
    defaults = kind()
    values = {}
    for name, value in mapping.items():
        default = getattr(defaults, name)
        if dataclasses.is_dataclass(default):
            value = _from_mapping(type(default), value)
        values[name] = tuple(value) if isinstance(default, tuple) else value
    return kind(**values)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of every setting."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(config: Config, stored_json: str) -> list[str]:
    """Lines `name: stored -> now` for the settings that differ from a stored config."""
    stored = _flatten_mapping(json.loads(stored_json))
    now = flatten(config)
    names = [*now, *(name for name in stored if name not in now)]
    absent = "(absent)"
    return [
        f"{name}: {stored.get(name, absent)!r} -> {now.get(name, absent)!r}"
        for name in names
        if stored.get(name, absent) != now.get(name, absent)
    ]


def _flatten_mapping(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, dict):
            flat |= _flatten_mapping(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def validate(config: Config) -> None:
    """Checks every setting that can be checked before work starts.

    Raises:
      ValueError: one line for each problem: the setting, what was found, and
        what is expected.
    """
    if problems := type_problems(config):
        raise ValueError("the config cannot be run:\n  " + "\n  ".join(problems))
    problems = [
        f"--config.{name}: found {value!r}, expected {expected}"
        for name, value, ok, expected in rules(flatten(config))
        if not ok
    ]
    problems += [
        f"--config.{name}: found {value!r}, expected a finite number"
        for name, value in flatten(config).items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if problems:
        raise ValueError("the config cannot be run:\n  " + "\n  ".join(problems))
