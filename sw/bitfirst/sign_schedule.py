"""The commands that find the signs of a weight's gradient by its first bits: see `golden.psg`.

Output blocks that lie in SUMS together are a group. Each is led: the high parts of its operands are multiplied, over
all of K, at their weight in the whole product, and its sums, then closed, are compared with the threshold by a READ.
Then each is finished: the other digits are added to the same sums, again over all of K, and a second READ takes the
signs. While one block of a group is compared, others are multiplied.

    L M L M READ  ...  L M M L M M READ  ...

A threshold that depends on the largest prediction is known only when all blocks have been led: so these are led first,
by a schedule of its own. Those that are still in SUMS afterwards are compared and finished there. Others, where the
outputs need more than all of SUMS, are led again: what that loads, sends and multiplies twice is a cost of the method.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.numeric import MAX_THRESHOLD

from .lowering import MatrixProduct, Task, Variant, boxes
from .plan import Block, Plan
from .schedule import Builder, Schedule, choices, in_order, with_holds
from .steps import Hold, Step, overlap


@dataclass(frozen=True)
class SignTask(Task):
    """A weight's gradient whose signs are wanted: every product's sums are over all of K."""

    def variants_on(self, config: ArrayConfig) -> tuple[Variant, ...]:
        """Not by border where the images themselves are cut: the parts of one sum would not be alike."""
        cut = len({(box.down, box.right) for box in boxes(config, self.geometry, (self.a, self.b))}) > 1
        return tuple(one for one in super().variants_on(config) if one.chained and not (cut and any(one.borders)))

    def products(self, config: ArrayConfig, variant: Variant) -> tuple[MatrixProduct, ...]:
        """One for each part of the result; segments of its K from all boxes."""
        made: dict[str, MatrixProduct] = {}
        for one in super().products(config, variant):
            place = repr(one.placement)
            known = made.get(place)
            made[place] = replace(known, segments=known.segments + one.segments) if known else one
        return tuple(made.values())


class SignSchedules(NamedTuple):
    """`seek`: leads all blocks, for the largest prediction; None where the threshold is known before. `decide`: the
    signs."""

    seek: Schedule | None
    decide: Schedule


@dataclass(eq=False)
class _Output:
    """An output block: K blocks, its place in SUMS, and how many READs there are up to its comparison."""

    product: int
    blocks: list[Block]
    region: range = range(0)
    reads: int = 0


def _outputs(plans: tuple[Plan, ...]) -> Iterator[_Output]:
    for index, planned in enumerate(plans):
        blocks: list[Block] = []
        for block in planned.blocks():
            blocks.append(block)
            if block.last:
                yield _Output(index, blocks)
                blocks = []


class _SignBuilder(Builder):
    """`compared`: READs of outputs that were led before."""

    def __init__(self, config: ArrayConfig, task: SignTask, chosen: "_Chosen") -> None:
        super().__init__(config, task, chosen.products, chosen.plans)
        self.compared: list[Step] = []

    def lead(self, output: _Output, decides: bool) -> None:
        """`decides`: it is compared with the threshold; if not, only its largest prediction is wanted."""
        for block in output.blocks:
            before = self._begin(block) if block.first else 0
            self._append(output.product, block, (self.plans[output.product].leading,), before)
        output.region, output.reads = self._region, self._reads
        self.work[-1].reads[:] = _comparing(self.work[-1].reads, decides)

    def compare(self, output: _Output) -> None:
        """What was led by a schedule before, and is still there."""
        self._region = output.region
        self.compared += _comparing(self._read(output.product, output.blocks[-1]), decides=True)
        output.reads = self._reads

    def finish(self, output: _Output) -> None:
        self._region = output.region
        for block in output.blocks:
            before = output.reads if block.first else 0
            self._append(output.product, block, self.plans[output.product].rest, before, accumulate=True)

    def has_room(self, output: _Output, group: list[_Output]) -> bool:
        """Whether an output goes into SUMS beside those of the group."""
        region = self._next_region(output.blocks[0])
        return not any(overlap(region, other.region) for other in group)

    def schedule(self) -> Schedule:
        tensors = tuple(self.tensors)
        steps, cycles = in_order(self.config, self.task, tensors, self.work, self.compared)
        made = Schedule(
            self.config,
            self.task,
            self.products,
            self.plans,
            tensors,
            with_holds(steps),
            self.counters,
            self.answer_words,
            cycles,
            self.outputs,
        )
        return made.made_quiet()


def _comparing(reads: list[Step], decides: bool) -> list[Step]:
    """READs of plain signs as such that compare."""
    if decides:
        return [replace(step, decides=True) for step in reads]
    return [_with_threshold(step, MAX_THRESHOLD) for step in reads]


def _with_threshold(step: Step, threshold: int) -> Step:
    fields = step.fields | {"key": threshold & 0xFFFFFFFF, "index": threshold >> 32}
    return replace(step, fields=fields, _words=None)


def with_threshold(schedule: Schedule, threshold: int) -> Schedule:
    """`SignSchedules.decide` for a threshold, in units of the whole sums."""

    def decided(step: Step | Hold) -> Step | Hold:
        known = isinstance(step, Hold) or not step.decides
        return step if known else _with_threshold(step, threshold)

    return replace(schedule, steps=tuple(map(decided, schedule.steps)))


class _Chosen(NamedTuple):
    products: tuple[MatrixProduct, ...]
    plans: tuple[Plan, ...]


def _seek(
    config: ArrayConfig, task: SignTask, chosen: _Chosen, outputs: list[_Output]
) -> tuple[Schedule, list[_Output]]:
    """Leads all outputs; those that are still in SUMS at the end."""
    builder, there = _SignBuilder(config, task, chosen), []
    for output in outputs:
        builder.lead(output, decides=False)
        there = [other for other in there if not overlap(other.region, output.region)] + [output]
    return builder.schedule(), there


def _decide(
    config: ArrayConfig, task: SignTask, chosen: _Chosen, outputs: list[_Output], there: list[_Output]
) -> Schedule:
    """Signs of all outputs; those that are `there` have been led."""
    builder = _SignBuilder(config, task, chosen)
    for output in there:
        builder.compare(output)
    group = there
    for output in outputs:
        if output in there:
            continue
        if not builder.has_room(output, group):
            for led in group:
                builder.finish(led)
            group = []
        builder.lead(output, decides=True)
        group = [*group, output]
    for led in group:
        builder.finish(led)
    return builder.schedule()


@lru_cache(maxsize=256)
def sign_schedules(config: ArrayConfig, task: SignTask, seeks: bool) -> SignSchedules:
    """The schedules with the least roughly estimated cycles; `seeks`: for a threshold that depends on the predictions.

    Raises `UsageError` when something irreducible does not fit the device, and where slices cannot be cut as the
    operand is split.
    """
    _, *chosen = min(choices(config, task), key=itemgetter(0))
    chosen = _Chosen(*chosen)
    outputs = list(_outputs(chosen.plans))
    if not seeks:
        return SignSchedules(None, _decide(config, task, chosen, outputs, []))
    seek, there = _seek(config, task, chosen, outputs)
    return SignSchedules(seek, _decide(config, task, chosen, outputs, there))
