"""Scaling laws: fit, uncertainty, plans.

    data = Data(x=dict(N=N, D=D), y=loss)
    fit = scaling.fit("chinchilla", data)                  # huber(1e-3) on log loss, 64 starts
    print(fit.report())
    draws = scaling.bootstrap(fit, 1000, kind="parametric")  # for few runs; "pairs" for many
    print(scaling.predict(fit, dict(N=1e9, D=2e10), draws))
    print(scaling.optimal(fit, 1e21, draws=draws))

Everything computes in float64 inside and leaves jax's settings as they are.
"""

from . import hparams
from .contrast import Difference, best_loss, difference, loss_at
from .coordinates import Coordinates, coordinate_check
from .covariance import cov, cov_free
from .data import Data, DataWarning
from .design import Design, next_runs
from .economy import Lifetime, Worth, equivalent_compute, lifetime, two_nd, waste
from .fit import Fit, fit
from .identify import Identifiability, identify, runs_needed
from .inductive_bias import inductive_bias_bits
from .isoflop import Envelope, IsoFlop, envelope, isoflop
from .law import Law, function, named
from .law import predict as law_value
from .laws import LAWS
from .learning_curve import Regions, regions
from .losses import Loss, huber, lad, learned, lsq
from .parameterisations import (
    absorbed,
    arch_init,
    arch_rate,
    branch,
    criticality,
    depth_mup,
    mup,
    param_scaling,
    u_mup,
)
from .plan import Plan, closed_form, optimal, six_nd
from .predict import Prediction, predict
from .profile import Profile, profile
from .random_features import best_ridge, power_spectrum, rf_eigenframework
from .rehearse import Rehearsal, rehearse
from .resample import Draws, bootstrap, limits, refit
from .select import Choice, Score, aicc, by_compute, kfold, score, select
from .simulate import simulate
from .status import Status

__all__ = [
    "LAWS",
    "Choice",
    "Coordinates",
    "Data",
    "DataWarning",
    "Design",
    "Difference",
    "Draws",
    "Envelope",
    "Fit",
    "Identifiability",
    "IsoFlop",
    "Law",
    "Lifetime",
    "Loss",
    "Plan",
    "Prediction",
    "Profile",
    "Regions",
    "Rehearsal",
    "Score",
    "Status",
    "Worth",
    "absorbed",
    "aicc",
    "arch_init",
    "arch_rate",
    "best_loss",
    "best_ridge",
    "bootstrap",
    "branch",
    "by_compute",
    "closed_form",
    "coordinate_check",
    "cov",
    "cov_free",
    "criticality",
    "depth_mup",
    "difference",
    "envelope",
    "equivalent_compute",
    "fit",
    "function",
    "hparams",
    "huber",
    "identify",
    "inductive_bias_bits",
    "isoflop",
    "kfold",
    "lad",
    "law_value",
    "learned",
    "lifetime",
    "limits",
    "loss_at",
    "lsq",
    "mup",
    "named",
    "next_runs",
    "optimal",
    "param_scaling",
    "power_spectrum",
    "predict",
    "profile",
    "refit",
    "regions",
    "rehearse",
    "rf_eigenframework",
    "runs_needed",
    "score",
    "select",
    "simulate",
    "six_nd",
    "two_nd",
    "u_mup",
    "waste",
]
