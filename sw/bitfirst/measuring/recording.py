"""Activity of a training, recorded from the whole simulated device."""

from bitfirst_hdl.contract.packets import Phase
from torch.nn.functional import cross_entropy

import bitfirst

from .. import data, loop, training
from ..errors import UsageError
from ..methods import Plan
from ..training import TrainOptions
from ..transports import RtlTransport
from .activity import Activity, by_phase

URL = "rtl:power?sensor=ina226"
METHOD = "e2train"
STEPS = 3  #: some of which the method may drop
REST_CYCLES = 1000  #: some spans, to see what it takes at rest
NAMES = {int(phase): phase.name.lower().replace("_", " ") for phase in Phase if phase != Phase.OTHER}


def record(url: str = URL, method: str = METHOD, steps: int = STEPS) -> tuple[Activity, ...]:
    """Of the first steps of a training on the digits, on a simulated device with a supply. Raises `UsageError` for any
    other device."""
    options = TrainOptions(method=method, device=url)
    with bitfirst.open(url) as device:
        transport = getattr(device, "transport", None)
        if not isinstance(transport, RtlTransport) or not device.config.measures or "sensor=" not in url:
            raise UsageError(f"{url}: activity is recorded on a simulated device with a supply, such as {URL}")
        run = training.new_run(options, device)
        run.method.plan(Plan.of(steps))
        told = training.epoch_batches(data.digits(), options, 0)[:steps]
        transport.record()
        transport.advance(REST_CYCLES)
        _, rest, _ = transport.recorded()
        transport.record()
        loop.epoch(run.net, told, run.optimizer, run.method, cross_entropy)
        span_cycles, watts, phases = transport.recorded()
    return by_phase(watts, phases, float(rest[-1]), NAMES, span_cycles)
