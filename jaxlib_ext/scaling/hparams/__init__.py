"""Hyperparameters against scale: learning rate and batch size for a model of N parameters trained on D tokens.

    step_law(N=7e9, D=1.4e12)                 # published constants; `fit_step_law` fits your own sweeps
    power_lr(n, batch, a, b, most)            # a rate that follows the tokens seen
    measure_critical_batch(...)               # steps to a target loss against batch size, one critical batch a size
    scale_lr(lr, batch, to, "adam", spectrum) # a rate carried to another batch size

Learning rate, batch and size enter in the units that the docstrings name; nothing is guessed from magnitudes.
"""

from .batch_lr import Spectrum, batch_eigenvalue, scale_lr, stable_lr
from .critical_batch import CriticalBatch, growth, measure_critical_batch, overhead, predict_critical_batch, steps_to
from .lanczos import Ritz, density, hessian_vector, lanczos, tridiagonal
from .optima import Optima, optima
from .power_scheduler import PowerLaw, fit_power_lr, power_lr
from .step_law import StepLaw, fit_step_law, step_law

__all__ = [
    "CriticalBatch",
    "Optima",
    "PowerLaw",
    "Ritz",
    "Spectrum",
    "StepLaw",
    "batch_eigenvalue",
    "density",
    "fit_power_lr",
    "fit_step_law",
    "growth",
    "hessian_vector",
    "lanczos",
    "measure_critical_batch",
    "optima",
    "overhead",
    "power_lr",
    "predict_critical_batch",
    "scale_lr",
    "stable_lr",
    "step_law",
    "steps_to",
    "tridiagonal",
]
