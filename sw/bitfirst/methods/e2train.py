"""E2-Train: fewer batches, fewer blocks, fewer bits."""

from .block_gates import SampleLoss, cross_entropies
from .compose import Compose
from .method import Method
from .psg import PSG
from .slu import SLU
from .smd import SMD
from .swa import SWA


class E2Train(Compose):
    """`SMD`, `SLU` and `PSG` together, of E2-Train; with `swa` also `SWA`, which that paper adds for accuracy.

    beta  of `PSG`; its predictor is "e2train": 4 of 8 bits of x, 10 of 16 of the output's gradient
    skip  of `SLU`
    p     of `SMD`; work: None for as many iterations as ordinary training
    loss  of `SLU`; seed: of both; update: of `PSG`
    """

    def __init__(
        self,
        beta: float = 0.05,
        skip: float = 0.4,
        p: float = 0.5,
        work: float | None = 2 / 3,
        swa: bool = False,
        update: str = "host",
        loss: SampleLoss = cross_entropies,
        seed: int = 0,
    ) -> None:
        methods: list[Method] = [SMD(p, work, seed=seed), SLU(skip, loss=loss, seed=seed)]
        methods.append(PSG(beta, update=update))
        super().__init__([*methods, SWA()] if swa else methods)
