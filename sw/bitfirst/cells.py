"""What a LOAD would put into operand cells, laid out by the host: for devices without the feature "gather"."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.packets import GROUP, OCTET_BITS, WORD_BITS, Opcode, Space, Target

from .command import Command
from .golden import loads
from .lowering import Cut, octets_of
from .quantised import Quantised

MOST_WRITE_WORDS = 256  #: data words of one WRITE: the sequencer does nothing else meanwhile


@dataclass(frozen=True)
class Layout:
    """How cells of one operand lie in their memory: `parts` rows a cell, of `vectors` x `lanes` digits of `digit_bits`.

    `lane_of` says on which lane each element of a chunk is.
    """

    space: Space
    vectors: int
    lanes: int
    digit_bits: int
    lane_of: tuple[int, ...]

    @classmethod
    def of(cls, config: ArrayConfig, target: Target) -> "Layout":
        """As `packets.Write` describes it."""
        if target == Target.A:
            lanes = tuple(config.lane_of_bit(element) for element in range(config.lanes))
            return cls(Space.CELLS_A, config.rows, config.lanes, config.a_row_slice_bits, lanes)
        return cls(Space.CELLS_B, config.columns, config.lanes, config.b_row_planes, tuple(range(config.lanes)))

    @property
    def parts(self) -> int:
        return OCTET_BITS // self.digit_bits

    @property
    def words(self) -> int:
        """64-bit words of a row."""
        return -(-self.bits // WORD_BITS)

    @property
    def bits(self) -> int:
        """Of a row."""
        return self.vectors * self.lanes * self.digit_bits

    def rows(self, cells: np.ndarray) -> np.ndarray:
        """Octets, uint8 [cells, vectors, lanes], as memory rows: uint64 [cells, parts, words]."""
        placed = np.empty_like(cells)
        placed[..., list(self.lane_of)] = cells
        bits = np.unpackbits(placed[..., None], axis=3).reshape(*cells.shape, self.parts, self.digit_bits)
        bits = np.ascontiguousarray(bits[..., ::-1].transpose(0, 3, 1, 2, 4))
        octets = np.packbits(bits.reshape(len(cells), self.parts, -1), axis=2, bitorder="little")
        if missing := -self.bits % WORD_BITS:
            octets = np.pad(octets, ((0, 0), (0, 0), (0, missing // OCTET_BITS)))
        return octets.view("<u8")

    def cells(self, rows: np.ndarray) -> np.ndarray:
        """`rows`, backwards."""
        bits = np.unpackbits(np.ascontiguousarray(rows).view(np.uint8), axis=2, bitorder="little")[..., : self.bits]
        bits = bits.reshape(len(rows), self.parts, self.vectors, self.lanes, self.digit_bits)[..., ::-1]
        octets = np.packbits(bits.transpose(0, 2, 3, 1, 4).reshape(*bits.shape[:1], *bits.shape[2:4], -1), axis=3)
        return octets[..., 0][..., list(self.lane_of)]


def write_words(config: ArrayConfig, load: Mapping[str, int], octets: int) -> list[int]:
    """Data words of the WRITEs that stand for a LOAD, in order."""
    layout = Layout.of(config, Target(load["target"]))
    rows = loads.load_cells(config, load, octets) * layout.parts
    most = MOST_WRITE_WORDS // layout.words
    return [min(most, rows - row) * layout.words for row in range(0, rows, most)]


class CellWrites:
    """The WRITEs that stand for an operation's LOADs; `tensors`: what these gather from, by their number."""

    def __init__(self, config: ArrayConfig, tensors: Sequence[tuple[Quantised, Cut]]) -> None:
        self._config = config
        self._tensors = tensors
        self._octets: dict[int, tuple[loads.Place, np.ndarray]] = {}

    def writes(self, load: Mapping[str, int], tensor: int) -> Iterator[Command]:
        layout = Layout.of(self._config, Target(load["target"]))
        place, octets = self._stored(tensor)
        words = layout.rows(loads.load_values(self._config, load, place, octets)).reshape(-1)
        row = load["cell"] * layout.parts
        for count in write_words(self._config, load, place.octets):
            rows = count // layout.words
            fields = {"space": layout.space, "row": row, "rows": rows, "words": layout.words}
            yield Command(Opcode.WRITE, fields, words[:count])
            row, words = row + rows, words[count:]

    def _stored(self, tensor: int) -> tuple[loads.Place, np.ndarray]:
        """A tensor as the first one of a store: uint8 [words, GROUP]."""
        if tensor not in self._octets:
            operand, cut = self._tensors[tensor]
            values = cut.of(operand.codes).transpose(0, 2, 3, 1).reshape(-1)
            place = loads.Place(cut.shape, 0, octets_of(operand.bits))
            octets = np.zeros((place.octets, place.octet_words * GROUP), dtype=np.uint8)
            for octet, part in enumerate(octets):
                part[: values.size] = (values >> OCTET_BITS * (place.octets - 1 - octet)).astype(np.uint8)
            self._octets[tensor] = place, octets.reshape(-1, GROUP)
        return self._octets[tensor]
