"""Integers to operand rows, as the array reads them (see docs/design.md, lane order). The hot path of a board.

A: slices of S bits, most significant first; signed A has its top digit in offset binary, so that the whole number is
stored plus 2**(width - 1). B: bit planes, most significant first, in two's complement. Rows, columns and lanes that
are not used hold zeros (for signed A: the offset), never old contents.
"""

import numpy as np
from bitfirst_hdl.config import ArrayConfig


def _grid(values: np.ndarray, tile: int, lanes: int, zero: np.integer) -> np.ndarray:
    """[n, k] as [tiles, chunks, tile, lanes], filled up with `zero`."""
    n, k = values.shape
    tiles, chunks = -(-n // tile), -(-k // lanes)
    if (n, k) != (tiles * tile, chunks * lanes):
        filled = np.full((tiles * tile, chunks * lanes), zero, dtype=values.dtype)
        filled[:n, :k] = values
        values = filled
    return values.reshape(tiles, tile, chunks, lanes).swapaxes(1, 2)


def pack_a(config: ArrayConfig, values: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """Integers [m, k] as A rows: uint64 [row tiles, slices, chunks, a_row_words]."""
    size = config.slice_bits
    slices = -(-bits // size)
    code_type = np.uint8 if slices * size <= 8 else np.uint16
    codes = values.astype(code_type)  # two's complement, modulo the type
    zero = code_type(1 << (slices * size - 1) if signed else 0)
    if signed:
        codes += zero
    grid = _grid(codes, config.rows, config.lanes, zero)
    tiles, chunks = grid.shape[:2]
    # element e = i * S + j of a chunk sits on lane j * (L / S) + i: `config.lane_of_bit`
    by_lane = grid.reshape(tiles, chunks, config.rows, config.lanes // size, size).swapaxes(3, 4)
    by_lane = np.ascontiguousarray(by_lane).reshape(tiles, chunks, -1)
    digit_mask = code_type((1 << size) - 1)
    per_byte = 8 // size
    packed = np.empty((tiles, slices, chunks, config.a_row_words * 8), dtype=np.uint8)
    for index in range(slices):
        digits = ((by_lane >> code_type(size * (slices - 1 - index))) & digit_mask).astype(np.uint8)
        out = digits[..., ::per_byte].copy()
        for lane in range(1, per_byte):
            out |= digits[..., lane::per_byte] << np.uint8(size * lane)
        packed[:, index] = out
    return packed.view("<u8")


def pack_b(config: ArrayConfig, values: np.ndarray, bits: int) -> np.ndarray:
    """Integers [n, k] as B rows: uint64 [column tiles, planes, chunks, b_row_words]."""
    grid = _grid(values, config.columns, config.lanes, values.dtype.type(0))
    tiles, chunks = grid.shape[:2]
    packed = np.empty((tiles, bits, chunks, config.b_row_words * 8), dtype=np.uint8)
    for low in range(0, bits, 8):
        part = grid if grid.dtype.itemsize == 1 else (grid >> low if low else grid)
        octets = np.ascontiguousarray(part.astype(np.uint8)).reshape(tiles, chunks, -1)
        planes = _transpose_octets(octets).view(np.uint8).reshape(tiles, chunks, -1, 8)
        for bit in range(low, min(low + 8, bits)):
            packed[:, bits - 1 - bit] = planes[..., bit - low]
    return packed.view("<u8")


_SWAPS = (
    (np.uint64(7), np.uint64(0x00AA00AA00AA00AA)),
    (np.uint64(14), np.uint64(0x0000CCCC0000CCCC)),
    (np.uint64(28), np.uint64(0x00000000F0F0F0F0)),
)


def _transpose_octets(octets: np.ndarray) -> np.ndarray:
    """Each eight bytes as an 8 x 8 bit matrix, transposed: bit i of byte b becomes bit b of byte i.

    Warren, Hacker's Delight (2nd edition), section 7-3.
    """
    words = octets.view("<u8")
    for shift, mask in _SWAPS:
        swap = words >> shift
        swap ^= words
        swap &= mask
        words = words ^ swap
        swap <<= shift
        words ^= swap
    return words
