"""The stage that evaluates policies without a simulator, for systems of the user's own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from proco_jax.config.schema import Config
from proco_jax.data.logs import Logs
from proco_jax.deployment.acting import Deployed
from proco_jax.evaluation.offline import (
    CANNOT_TELL,
    CONFIDENCE,
    FILE,
    NOTHING_HELD_OUT,
    SUPPORT,
    Margin,
    forecast_margins,
    imagine_episodes,
    model_report,
    policy_report,
)
from proco_jax.knowledge.grounding import Grounding
from proco_jax.models import cost, dynamics
from proco_jax.pipeline.policies import Trained, shield_inputs
from proco_jax.pipeline.store import digest
from proco_jax.pipeline.workdir import Run
from proco_jax.pipeline.world_model import FittedCost, Nets, rule_score
from proco_jax.system.description import load_system
from proco_jax.types import Array


def unsafe_margin(
    nets: Nets, grounding: Grounding | None, fitted: FittedCost | None
) -> Margin | None:
    """How far a state is inside of the unsafe set, by the rules or else by the cost network."""
    if grounding is None:
        return None
    score = rule_score(grounding)
    if score is not None:
        return score
    assert fitted is not None
    model = fitted.model
    return lambda obs: cost.score(nets.cost, model, obs) - model.threshold


def evaluate_offline(
    run: Run,
    nets: Nets,
    logs: Logs,
    model: dynamics.Model,
    margin: Margin | None,
    knows: str,
    trained: Sequence[Trained],
    deployed: Mapping[str, Deployed],
) -> None:
    """Writes `offline_evaluation.json`: the model on held-out logs, and each policy in the model.

    What is there already, of the same policies, is not made again.

    Args:
      margin: what violates; None without knowledge.
      knows: digest of what the margin is made of; of no meaning without one.
    """
    config = run.config
    system = load_system(config.system.file)
    horizon = system.episode_steps
    found = run.read_json(FILE) or {}
    held_out = logs.holdout
    kept = [*logs.episodes, *logs.holdout]
    key = digest({"logs": logs.digest, "horizon": horizon, "margin": margin and knows})
    if not held_out:
        run.log(f"   {NOTHING_HELD_OUT}")
    if found.get("key") != key:
        found = {
            "key": key,
            "cannot_tell": CANNOT_TELL,
            "confidence": CONFIDENCE,
            "model": model_report(nets.dynamics, model, held_out, system.observed(), horizon),
            "logged_return": _logged_return(kept, horizon),
            "policies": {},
        }
    pairs = None
    if margin is not None:
        pairs = forecast_margins(nets.dynamics, model, margin, held_out, horizon)
        if held_out:
            found["model"]["largest_margin"] = _agreement(*pairs)
    steps = int(np.median([len(e.reward) for e in held_out])) if held_out else horizon
    obs = np.concatenate([e.obs for e in kept])
    logged_range = tuple(np.quantile(obs, SUPPORT, axis=0))
    first = np.stack([e.obs[0] for e in kept])
    for policy in trained:
        for shield in config.shields:
            name = f"{policy.name}, shield {shield}"
            settings = digest(_inputs(policy, deployed[policy.name], shield, config))
            if found["policies"].get(name, {}).get("settings") == settings:
                continue
            imagined = imagine_episodes(
                policy.program,
                shield,
                deployed[policy.name],
                model,
                margin,
                logged_range,  # pyright: ignore
                _starts(first, config.seeds, config.shield.forecast_starts, config.seed),
                horizon,
                config.seed,
            )
            report = policy_report(imagined, logs.spec, pairs, steps)
            found["policies"][name] = {"settings": settings, **report}
            run.write_json(FILE, found)
            run.log(f"   {name}: {_words(report)}")


def _inputs(policy: Trained, deployed: Deployed, shield: str, config: Config) -> dict[str, Any]:
    return {
        "policy": policy.inputs,
        # Its settings matter without a shield too: the number of starts is among them.
        "shield": [shield_inputs(config, shield, deployed), vars(config.shield)],
        "seed": config.seed,
    }


def _starts(first: np.ndarray, policies: int, count: int, seed: int) -> Array:
    """First observations `[S, n, O]`, each used about equally often."""
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(first))
    rows = [
        np.concatenate([rng.permutation(len(first)) for _ in range(rounds)])[:count]
        for _ in range(policies)
    ]
    return first[np.stack(rows)]


def _logged_return(episodes: Sequence[Any], horizon: int) -> dict[str, float]:
    """Mean and quartiles of the logged returns, as of episodes of the horizon's length."""
    returns = [float(e.reward.mean(dtype=np.float64)) * horizon for e in episodes]
    low, middle, high = np.quantile(returns, (0.25, 0.5, 0.75))
    return {
        "mean": float(np.mean(returns)),
        "25%": float(low),
        "median": float(middle),
        "75%": float(high),
    }


def _agreement(forecast: np.ndarray, logged: np.ndarray) -> dict[str, float | int | None]:
    """How the largest margins of whole held-out episodes agree with their forecast."""
    finite = np.isfinite(forecast)
    error = np.abs(forecast - logged)[finite]
    return {
        "episodes": len(logged),
        "mean_error": float(error.mean()) if len(error) else None,
        "forecast_violating": int((~(forecast < 0)).sum()),
        "logged_violating": int((logged >= 0).sum()),
    }


def _words(report: Mapping[str, Any]) -> str:
    words = []
    if report["violating_episodes"] is not None:
        words.append(
            f"forecast {report['violating_episodes']:.0%} of episodes violate "
            f"[{report['interval_low']:.0%}, {report['interval_high']:.0%}], bound "
            f"{report['bound']:.0%}"
        )
    if report["return"] is not None:
        words.append(f"return {report['return']['mean']:.4g}")
    words.append(f"{report['leaving_support']:.0%} leave what the model knows")
    return "; ".join(words)
