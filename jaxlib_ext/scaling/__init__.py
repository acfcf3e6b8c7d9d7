"""Scaling laws: fit, uncertainty, plans.

    data = Data(x=dict(N=N, D=D), y=loss)
    fit = scaling.fit("chinchilla", data)                  # huber(1e-3) on log loss, 64 starts
    print(fit.report())
    draws = scaling.bootstrap(fit, 1000, kind="parametric")  # for few runs; "pairs" for many
    print(scaling.predict(fit, dict(N=1e9, D=2e10), draws))
    print(scaling.optimal(fit, 1e21, draws=draws))

Everything computes in float64 inside and leaves jax's settings as they are.
"""

from .covariance import cov, cov_free
from .data import Data, DataWarning
from .fit import Fit, fit
from .law import Law, function, named
from .law import predict as law_value
from .laws import LAWS
from .losses import Loss, huber, lad, learned, lsq
from .plan import Plan, closed_form, optimal, six_nd
from .predict import Prediction, predict
from .resample import Draws, bootstrap, refit
from .status import Status

__all__ = [
    "LAWS",
    "Data",
    "DataWarning",
    "Draws",
    "Fit",
    "Law",
    "Loss",
    "Plan",
    "Prediction",
    "Status",
    "bootstrap",
    "closed_form",
    "cov",
    "cov_free",
    "fit",
    "function",
    "huber",
    "lad",
    "law_value",
    "learned",
    "lsq",
    "named",
    "optimal",
    "predict",
    "refit",
    "six_nd",
]
