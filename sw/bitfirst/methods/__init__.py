"""Training methods: what `convert` is given to change how a network learns. One file for each."""

from .compose import Compose
from .method import Method
from .named import NAMES, named
from .pfq import PFQ
from .plan import Plan
from .precision import SCHEDULES
from .psg import E2TRAIN, PSG, Leading
from .schedules import CPT, ByHand
from .sign_sgd import DEVICE, HOST, UPDATES, SignSGD
from .smb import SMB
from .smd import SMD
from .swa import SWA

__all__ = [
    "CPT",
    "DEVICE",
    "E2TRAIN",
    "HOST",
    "NAMES",
    "PFQ",
    "PSG",
    "SCHEDULES",
    "SMB",
    "SMD",
    "SWA",
    "UPDATES",
    "ByHand",
    "Compose",
    "Leading",
    "Method",
    "Plan",
    "SignSGD",
    "named",
]
