"""Datagrams of UDP that carry the link's bytes over Ethernet, both ways.

A datagram is a `Head` and up to `MAX_BYTES` bytes of the link, whole words of 32 bits, in their order. Each end numbers
what it sends, and takes a datagram only if its number is ahead of that of the last one taken (modulo 2**32, by less
than 2**31): late and doubled ones are dropped. So a lost one, and one that was overtaken, leave a gap in the bytes,
nothing else; the frames' CRC-32 and sequence numbers find it, and the frames are sent again as on any damaged link.

A datagram without bytes is never taken. The device answers it with one of the same kind; the host asks with it, at the
start, which numbers come next, and goes on `AHEAD` further than it has to: what an earlier host left on its way is then
late. The device sends to whom it took the last datagram from.
"""

from itertools import pairwise

from amaranth.lib import data

from . import packets

NUMBER_BITS = 32
MAX_BYTES = 1024  # with all heads far less than Ethernet's 1,500
AHEAD = 1 << 12  # datagrams; no receive buffer holds so many
PORT = 6_543  # of UDP, the device's


class Head(data.Struct):
    """First 64-bit word of a datagram.

    number  of this datagram; in one without bytes, of the last one that had some
    taken   to the host: number of the last datagram taken; to the device: 0
    """

    number: NUMBER_BITS
    taken: NUMBER_BITS


def pieces(stream: bytes) -> list[bytes]:
    """What goes into a datagram each, nearly alike in size: so Ethernet pads none that carries a frame.

    A receiver finds damage behind the padding, when LiteEth's core has passed the datagram on.
    """
    count = -(-len(stream) // MAX_BYTES)
    ends = [len(stream) // packets.WORD_BYTES * place // count * packets.WORD_BYTES for place in range(1, count)]
    return [stream[start:end] for start, end in pairwise([0, *ends, len(stream)])] if stream else []


def is_ahead(number: int, last: int) -> bool:
    """Whether a datagram is to be taken after the one with number `last`."""
    return 0 < (number - last) % (1 << NUMBER_BITS) < 1 << (NUMBER_BITS - 1)
