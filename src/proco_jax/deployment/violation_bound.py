"""Split-conformal bounds: what held-out logs guarantee of forecasts, and under which assumption.

A forecast F and an outcome Y are known for n held-out episodes. If a new episode is exchangeable
with them, its outcome exceeds F + q with probability at most alpha, where q is the k-th smallest of
Y - F, k = ceil((n + 1) (1 - alpha)) (Vovk et al. 2005; Lei et al. 2018). No model has to be right.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import beta


class ViolationBound(NamedTuple):
    """A bound on the share of episodes that violate.

    Attributes:
      shift: q, by which an outcome exceeds its forecast with probability at most alpha; infinite
        if there are too few held-out episodes.
      flagged: share of the forecasts that reach the unsafe set when shifted by q.
      bound: `flagged`, at the upper end of its interval, plus alpha; at most 1.
    """

    shift: float
    flagged: float
    bound: float


def smallest_alpha(count: int) -> float:
    """The smallest alpha for which `count` held-out episodes give a finite bound."""
    return 1.0 / (count + 1)


def conformal_shift(forecast: np.ndarray, outcome: np.ndarray, alpha: float) -> float:
    """The q for which a new outcome exceeds its forecast plus q with probability at most alpha.

    Args:
      forecast: `[n]` of held-out episodes, each the same function of what is known before.
      outcome: `[n]` of the same episodes.
      alpha: in (0, 1).

    Returns:
      Infinity if n is below 1 / alpha - 1.

    Raises:
      ValueError: if the shapes differ or alpha is no probability.
    """
    forecast, outcome = np.asarray(forecast, np.float64), np.asarray(outcome, np.float64)
    if forecast.ndim != 1 or forecast.shape != outcome.shape:
        raise ValueError(
            f"expected forecasts and outcomes [n], found {forecast.shape} and {outcome.shape}"
        )
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: found {alpha}, expected a number between 0 and 1")
    n = len(forecast)
    k = max(int(np.ceil((n + 1) * (1.0 - alpha) - 1e-9)), 1)
    return float(np.sort(outcome - forecast)[k - 1]) if k <= n else np.inf


def binomial_upper(count: int, trials: int, confidence: float) -> float:
    """The upper limit of a probability by Clopper and Pearson, 1 without trials."""
    if count >= trials:
        return 1.0
    return float(beta.ppf(confidence, count + 1, trials - count))


def violation_bound(
    forecast: np.ndarray,
    outcome: np.ndarray,
    deployed: np.ndarray,
    alpha: float,
    confidence: float,
) -> ViolationBound:
    """A bound on the share of deployed episodes whose margin reaches 0.

    An episode violates if its largest margin is 0 or more. It does so with a forecast that is
    shifted by q below 0 with probability at most alpha; forecasts at or above are counted.

    Args:
      forecast: `[n]` largest margins of held-out episodes in the model.
      outcome: `[n]` their largest logged margins.
      deployed: `[m]` largest margins of imagined episodes of the policy; infinite where the model
        cannot tell.
      alpha: probability that an outcome exceeds its shifted forecast.
      confidence: of the upper limit of the share of flagged forecasts.
    """
    shift = conformal_shift(forecast, outcome, alpha)
    flagged = int(np.sum(~(np.asarray(deployed, np.float64) + shift < 0)))
    upper = binomial_upper(flagged, len(deployed), confidence)
    share = flagged / len(deployed) if len(deployed) else 1.0
    return ViolationBound(shift, share, min(1.0, upper + alpha))
