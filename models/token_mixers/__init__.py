"""Token mixers: sequence to sequence, in parallel for training and token by token for decoding."""

from .armt import Armt
from .attention import Attention
from .based_attention import BasedAttention
from .cross_attention import CrossAttention
from .delta_net import DeltaNet
from .gated_deltanet import GatedDeltaNet
from .gla import Gla
from .hyena import Hyena
from .hyper_attention import HyperAttention
from .laughing_hyena import LaughingHyena
from .lmuformer import LmuFormer
from .lssl import Lssl
from .lstm import Lstm
from .mamba import Mamba
from .mamba2 import Mamba2
from .mesa_layer import MesaLayer
from .mla import Mla
from .native_sparse_attention import NativeSparseAttention
from .nope_head_scale import NopeHeadScale
from .normalized_attention import NormalizedAttention
from .qrnn import Qrnn
from .quasi_lstm import QuasiLstm
from .retention import Retention
from .rglru import RgLru
from .rwkv7 import Rwkv7
from .sigmoid_attention import SigmoidAttention
from .sparse_transformer import SparseTransformer

TOKEN_MIXERS = {
    "armt": Armt,
    "attention": Attention,
    "based_attention": BasedAttention,
    "cross_attention": CrossAttention,
    "delta_net": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "gla": Gla,
    "hyena": Hyena,
    "hyper_attention": HyperAttention,
    "laughing_hyena": LaughingHyena,
    "lmuformer": LmuFormer,
    "lssl": Lssl,
    "lstm": Lstm,
    "mamba": Mamba,
    "mamba2": Mamba2,
    "mesa_layer": MesaLayer,
    "mla": Mla,
    "native_sparse_attention": NativeSparseAttention,
    "nope_head_scale": NopeHeadScale,
    "normalized_attention": NormalizedAttention,
    "qrnn": Qrnn,
    "quasi_lstm": QuasiLstm,
    "retention": Retention,
    "rglru": RgLru,
    "rwkv7": Rwkv7,
    "sigmoid_attention": SigmoidAttention,
    "sparse_transformer": SparseTransformer,
}

__all__ = [
    "TOKEN_MIXERS",
    "Armt",
    "Attention",
    "BasedAttention",
    "CrossAttention",
    "DeltaNet",
    "GatedDeltaNet",
    "Gla",
    "Hyena",
    "HyperAttention",
    "LaughingHyena",
    "LmuFormer",
    "Lssl",
    "Lstm",
    "Mamba",
    "Mamba2",
    "MesaLayer",
    "Mla",
    "NativeSparseAttention",
    "NopeHeadScale",
    "NormalizedAttention",
    "Qrnn",
    "QuasiLstm",
    "Retention",
    "RgLru",
    "Rwkv7",
    "SigmoidAttention",
    "SparseTransformer",
]
