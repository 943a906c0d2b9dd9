"""A transport with faults at chosen rates, in either direction, the same for the same seed."""

from dataclasses import dataclass

import numpy as np
from bitfirst.errors import LinkError


@dataclass
class Faults:
    """Probabilities per byte. `count` says how many faults there were."""

    flip: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.count = 0
        self._random = np.random.default_rng(self.seed)

    def apply(self, data: bytes) -> bytes:
        stream = np.frombuffer(data, dtype=np.uint8)
        flipped = self._random.random(len(stream)) < self.flip
        bits = np.left_shift(1, self._random.integers(0, 8, len(stream))).astype(np.uint8)
        stream = np.where(flipped, stream ^ bits, stream)
        dropped = self._random.random(len(stream)) < self.drop
        doubled = self._random.random(len(stream)) < self.duplicate
        self.count += int(flipped.sum() + dropped.sum() + doubled.sum())
        return np.repeat(stream, 1 - dropped + doubled).tobytes()


class FaultyTransport:
    """Passes bytes on to `inner` with faults; dead from `dead_after_bytes` bytes to the device on."""

    def __init__(self, inner, to_device=None, to_host=None, dead_after_bytes=None, closes=False) -> None:
        self._inner = inner
        self.name, self.deterministic = inner.name, inner.deterministic
        self.timeout_s, self.byte_s = inner.timeout_s, inner.byte_s
        self.to_device = to_device or Faults()
        self.to_host = to_host or Faults()
        self.written_bytes = 0
        self._dead_after_bytes = dead_after_bytes
        self._closes = closes

    @property
    def _dead(self) -> bool:
        return self._dead_after_bytes is not None and self.written_bytes >= self._dead_after_bytes

    def write(self, data: bytes) -> None:
        if self._dead and self._closes:
            raise LinkError(f"{self.name} is gone")
        if not self._dead:
            self._inner.write(self.to_device.apply(data))
        self.written_bytes += len(data)

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        return b"" if self._dead else self.to_host.apply(self._inner.read(min_bytes, timeout_s))

    def close(self) -> None:
        self._inner.close()
