"""A function for every rule, `adamw(learning_rate, *, b1, b2, eps, weight_decay, decay_mask, ...)`, returning an
optax transformation.

The options are the fields of the rule and those of `transform`; `help` shows them.
"""

from . import rules
from .transform import as_function

accumulated = as_function(rules.Accumulated)
adafactor = as_function(rules.Adafactor)
adam = as_function(rules.Adam)
adam_atan2 = as_function(rules.AdamAtan2)
adam_cm = as_function(rules.AdamCm)
adamax = as_function(rules.Adamax)
adamp = as_function(rules.Adamp)
adamw = as_function(rules.Adamw)
adan = as_function(rules.Adan)
add_gradient_noise = as_function(rules.AddGradientNoise)
ademamix = as_function(rules.Ademamix)
adopt = as_function(rules.Adopt)
agvm = as_function(rules.Agvm)
averaged = as_function(rules.Averaged)
cautious = as_function(rules.Cautious)
centralised = as_function(rules.Centralised)
coupled = as_function(rules.Coupled)
dadapt_adagrad = as_function(rules.DadaptAdagrad)
dadapt_adam = as_function(rules.DadaptAdam)
dadapt_lion = as_function(rules.DadaptLion)
dadapt_sgd = as_function(rules.DadaptSgd)
dog = as_function(rules.Dog)
dowg = as_function(rules.Dowg)
lamb = as_function(rules.Lamb)
lars = as_function(rules.Lars)
lion = as_function(rules.Lion)
lion_k = as_function(rules.LionK)
lookahead = as_function(rules.Lookahead)
mars = as_function(rules.Mars)
mt_adamw = as_function(rules.MtAdamw)
prodigy = as_function(rules.Prodigy)
sam = as_function(rules.Sam)
schedule_free = as_function(rules.ScheduleFree)
schedule_free_adamw = as_function(rules.ScheduleFreeAdamw)
sgd = as_function(rules.Sgd)
signum = as_function(rules.Signum)
sophia_g = as_function(rules.SophiaG)
tiger = as_function(rules.Tiger)

OPTIMIZERS = {name: globals()[name] for name in rules.RULES}
