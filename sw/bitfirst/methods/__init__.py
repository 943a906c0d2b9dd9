"""Training methods: what `convert` is given to change how a network learns. One file for each."""

from .compose import Compose
from .dfq import DFQ, FracTrain
from .e2train import E2Train
from .fc_only import FCOnly
from .floating import FP16, FP32
from .method import Method
from .named import NAMES, named
from .pfq import PFQ
from .plan import Plan
from .precision import SCHEDULES
from .psg import E2TRAIN, PSG, Leading
from .sbm import SBM
from .schedules import CPT, ByHand, Int8Int12, Static
from .sign_sgd import DEVICE, HOST, UPDATES, SignSGD
from .skipnet import SkipNet
from .slu import SLU
from .smb import SMB
from .smd import SMD
from .stochastic_depth import StochasticDepth
from .swa import SWA

__all__ = [
    "CPT",
    "DEVICE",
    "DFQ",
    "E2TRAIN",
    "FP16",
    "FP32",
    "HOST",
    "NAMES",
    "PFQ",
    "PSG",
    "SBM",
    "SCHEDULES",
    "SLU",
    "SMB",
    "SMD",
    "SWA",
    "UPDATES",
    "ByHand",
    "Compose",
    "E2Train",
    "FCOnly",
    "FracTrain",
    "Int8Int12",
    "Leading",
    "Method",
    "Plan",
    "SignSGD",
    "SkipNet",
    "Static",
    "StochasticDepth",
    "named",
]
