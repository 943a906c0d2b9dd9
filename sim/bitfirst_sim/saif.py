"""Switching activity of the compiled RTL: how long each net was high and how often it toggled, and SAIF files of it.

SAIF 2.0 is annex I of IEEE 1801-2018. Verilator counts (`--trace-saif`), in a file for each stretch of cycles in one
phase (harness.cpp); stretches of the same phase add up here. Nothing in a cycle is seen but its end, so there are no
glitches; memories are seen by their ports, but those of at most 32 rows by their cells, too.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
from bitfirst.errors import DeviceError, UsageError

_TOKEN = re.compile(
    r"\s*(?:\(INSTANCE\s+(?P<instance>[^\s()]+)"
    r"|\((?P<net>[^\s()]+)\s*\(T0\s+(?P<low>\d+)\s*\)\s*\(T1\s+(?P<high>\d+)\s*\)"
    r"(?:\s*\(T[XZB]\s+0\s*\))*\s*\(TC\s+(?P<toggles>\d+)\s*\)\s*\)"
    r"|\((?P<list>NET)\b|(?P<end>\)))"
)
_NUMBERS = re.compile(r"\(T0 (\d+)\) \(T1 (\d+)\) \(TZ 0\) \(TX 0\) \(TB 0\) \(TC (\d+)\)")
_DURATION = re.compile(r"\(DURATION\s+(\d+)\s*\)")
_TIMESCALE = re.compile(r"\(TIMESCALE\s+1\s*ps\s*\)")
_SPECIAL = re.compile(r"(?=\W)")

CYCLE_PS = 10_000  #: in these files, whatever the clock of a board

Net = tuple[tuple[str, ...], str]  #: instances from the top down, and its name there, such as "rx__payload[3]"


@dataclass(frozen=True)
class Activity:
    """nets         each one bit; a net that goes through several instances stands in each
    duration_ps  simulated time
    high_ps      int64, by net: how long of it
    toggles      int64, by net: how often it rose or fell
    """

    nets: tuple[Net, ...]
    duration_ps: int
    high_ps: np.ndarray
    toggles: np.ndarray

    def __add__(self, other: "Activity") -> "Activity":
        """Of two stretches of the same design. Raises `UsageError` for another one."""
        if not isinstance(other, Activity):
            return NotImplemented
        if self.nets != other.nets:
            raise UsageError("these activities are of different designs: add up those of one")
        sums = self.high_ps + other.high_ps, self.toggles + other.toggles
        return Activity(self.nets, self.duration_ps + other.duration_ps, *sums)


def read(path: Path) -> Activity:
    """A file with times in picoseconds, and no net that is ever X or Z. Raises `UsageError` for any other."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): give a SAIF file") from None
    duration_ps = _duration_ps(path, text)
    nets, numbers = [], []
    for net, low, high, toggles in _nets(path, text):
        if low + high != duration_ps:
            raise UsageError(f"{path}: {net[1]} is low {low} ps and high {high} ps of {duration_ps}; count again")
        nets.append(net)
        numbers.append((high, toggles))
    table = np.array(numbers, np.int64).reshape(-1, 2)
    return Activity(tuple(nets), duration_ps, table[:, 0], table[:, 1])


def _duration_ps(path: Path, text: str) -> int:
    head = text.partition("(INSTANCE")[0]
    found = _DURATION.search(head)
    if found is None or not _TIMESCALE.search(head):
        raise UsageError(f"{path} is no SAIF file with times in picoseconds: give one of Bitfirst")
    return int(found[1])


def _nets(path: Path, text: str) -> Iterator[tuple[Net, int, int, int]]:
    """Each with its picoseconds low and high, and its toggles."""
    place = max(0, text.find("(INSTANCE"))
    instances: list[str] = []
    closes: list[bool] = []  # of all that is open: whether it is an instance
    while found := _TOKEN.match(text, place):
        place = found.end()
        if found["net"]:
            yield (tuple(instances), _plain(found["net"])), *(int(found[key]) for key in ("low", "high", "toggles"))
        elif found["instance"]:
            instances.append(_plain(found["instance"]))
            closes.append(True)
        elif found["list"]:
            closes.append(False)
        elif not closes:
            return  # the end of the file's own list
        elif closes.pop():
            instances.pop()
    line = text.count("\n", 0, place) + 1
    raise UsageError(f"{path} is damaged or cut short in line {line}: count again")


def write(path: Path, activity: Activity, design: str, about: str) -> Path:
    """A SAIF file; its path. Nets without a name of their own (`$12`) are left out: others neither have nor take them.

    design  its name in the file
    about   a comment of one line
    """
    with path.open("w") as file:
        file.write(f'/* {about} */\n(SAIFILE\n(SAIFVERSION "2.0")\n(DIRECTION "backward")\n(DESIGN "{design}")\n')
        file.write('(PROGRAM_NAME "bitfirst")\n(DIVIDER / )\n(TIMESCALE 1 ps)\n')
        file.write(f"(DURATION {activity.duration_ps})\n")
        before: tuple[str, ...] = ()
        columns = activity.high_ps.tolist(), activity.toggles.tolist()
        for (instances, name), high, toggles in zip(activity.nets, *columns, strict=True):
            if name.startswith("$"):
                continue
            if instances != before:
                file.write(_between(before, instances))
                before = instances
            low = activity.duration_ps - high
            file.write(f"({_escaped(name)} (T0 {low}) (T1 {high}) (TX 0) (TC {toggles}))\n")
        file.write(_between(before, ()) + ")\n")
    return path


def _between(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    """What stands between the nets of one instance and those of another; () is outside."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    ends = ")\n" * (bool(before) + len(before) - same)
    return ends + "".join(f"(INSTANCE {_escaped(name)}\n" for name in after[same:]) + ("(NET\n" if after else "")


def _escaped(name: str) -> str:
    return _SPECIAL.sub(r"\\", name)


def _plain(name: str) -> str:
    return name.replace("\\", "")


def collect(folder: Path, stretches: Iterable[int]) -> dict[int, Activity]:
    """Of the simulator's files, by phase; they are deleted. Raises `DeviceError` where some are lost."""
    found: dict[int, Activity] = {}
    nets: tuple[Net, ...] | None = None
    for number in stretches:
        paths = sorted(folder.glob(f"{number}.*.saif"), key=lambda path: len(path.name))
        if len(paths) != 2:
            raise DeviceError(f"toggles of stretch {number} are lost: make room in {folder.parent}")
        nets = nets or read(paths[0]).nets
        (duration_ps, high_ps, toggles), (_, _, started_high) = (_counts(path, len(nets)) for path in paths)
        one = Activity(nets, duration_ps, high_ps, toggles - started_high)
        phase = int(paths[0].name.split(".")[1])
        found[phase] = found[phase] + one if phase in found else one
        for path in paths:
            path.unlink()
    return found


def _counts(path: Path, count: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Duration; time high and toggles of each of `count` nets: of a file of Verilator's, whose nets are known."""
    text = path.read_text()
    table = np.array(_NUMBERS.findall(text), np.int64).reshape(-1, 3)
    if len(table) != count or not text.endswith(")\n"):
        raise DeviceError(f"{path.name} is cut short: make room in {path.parent.parent}")
    return _duration_ps(path, text), table[:, 1], table[:, 2]
