"""Rules: one method a file. A rule is a frozen dataclass; `optim.transform` makes an optax transformation of it."""

from .accumulated import Accumulated
from .adafactor import Adafactor
from .adam import Adam
from .adam_atan2 import AdamAtan2
from .adam_cm import AdamCm
from .adamax import Adamax
from .adamp import Adamp
from .adamw import Adamw
from .adan import Adan
from .add_gradient_noise import AddGradientNoise
from .ademamix import Ademamix
from .adopt import Adopt
from .agvm import Agvm
from .averaged import Averaged
from .cautious import Cautious
from .centralised import Centralised
from .coupled import Coupled
from .dadapt_adagrad import DadaptAdagrad
from .dadapt_adam import DadaptAdam
from .dadapt_lion import DadaptLion
from .dadapt_sgd import DadaptSgd
from .dog import Dog
from .dowg import Dowg
from .lamb import Lamb
from .lars import Lars
from .lion import Lion
from .lion_k import LionK
from .lookahead import Lookahead
from .mars import Mars
from .mt_adamw import MtAdamw
from .prodigy import Prodigy
from .sam import Sam
from .schedule_free import ScheduleFree
from .schedule_free_adamw import ScheduleFreeAdamw
from .sgd import Sgd
from .signum import Signum
from .sophia_g import SophiaG
from .tiger import Tiger

RULES = {
    "accumulated": Accumulated,
    "adafactor": Adafactor,
    "adam": Adam,
    "adam_atan2": AdamAtan2,
    "adam_cm": AdamCm,
    "adamax": Adamax,
    "adamp": Adamp,
    "adamw": Adamw,
    "adan": Adan,
    "add_gradient_noise": AddGradientNoise,
    "ademamix": Ademamix,
    "adopt": Adopt,
    "agvm": Agvm,
    "averaged": Averaged,
    "cautious": Cautious,
    "centralised": Centralised,
    "coupled": Coupled,
    "dadapt_adagrad": DadaptAdagrad,
    "dadapt_adam": DadaptAdam,
    "dadapt_lion": DadaptLion,
    "dadapt_sgd": DadaptSgd,
    "dog": Dog,
    "dowg": Dowg,
    "lamb": Lamb,
    "lars": Lars,
    "lion": Lion,
    "lion_k": LionK,
    "lookahead": Lookahead,
    "mars": Mars,
    "mt_adamw": MtAdamw,
    "prodigy": Prodigy,
    "sam": Sam,
    "schedule_free": ScheduleFree,
    "schedule_free_adamw": ScheduleFreeAdamw,
    "sgd": Sgd,
    "signum": Signum,
    "sophia_g": SophiaG,
    "tiger": Tiger,
}

__all__ = [
    "RULES",
    "Accumulated",
    "Adafactor",
    "Adam",
    "AdamAtan2",
    "AdamCm",
    "Adamax",
    "Adamp",
    "Adamw",
    "Adan",
    "AddGradientNoise",
    "Ademamix",
    "Adopt",
    "Agvm",
    "Averaged",
    "Cautious",
    "Centralised",
    "Coupled",
    "DadaptAdagrad",
    "DadaptAdam",
    "DadaptLion",
    "DadaptSgd",
    "Dog",
    "Dowg",
    "Lamb",
    "Lars",
    "Lion",
    "LionK",
    "Lookahead",
    "Mars",
    "MtAdamw",
    "Prodigy",
    "Sam",
    "ScheduleFree",
    "ScheduleFreeAdamw",
    "Sgd",
    "Signum",
    "SophiaG",
    "Tiger",
]
