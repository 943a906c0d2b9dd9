"""Training methods: what `convert` is given to change how a network learns. One file for each."""

from .compose import Compose
from .method import Method
from .psg import E2TRAIN, PSG, Leading
from .sign_sgd import DEVICE, HOST, UPDATES, SignSGD

__all__ = ["DEVICE", "E2TRAIN", "HOST", "PSG", "UPDATES", "Compose", "Leading", "Method", "SignSGD"]
