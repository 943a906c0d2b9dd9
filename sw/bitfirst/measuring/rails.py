"""Which sensors a device has: as told by options, by a file, or of the simulated board."""

import tomllib
from dataclasses import fields
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from ..errors import UsageError
from .sensors import CHIPS, XADC, Rail

SIMULATED = "ina228"  #: on a simulated board, if none is named
SIMULATED_OHM = 0.1  #: as `bitfirst.open` says
FIRST_ADDRESS = 0x40
NONE_NAMED = f"no sensor is named: give --sensor ({', '.join(CHIPS)}) and --shunt-ohm, or --rails FILE"
_FIRST = {"i2c": FIRST_ADDRESS, "spi": 0, "pmbus": 52, "xadc": min(XADC)}
NAMES = tuple(field.name for field in fields(Rail))


def device_with_sensor(url: str, kind: str | None) -> tuple[str, str | None]:
    """The URL of a simulated device with a sensor on its pins, and which; any other URL as it is, with `kind`.

    "rtl" alone is rtl:power: a plain one has no power monitor. Raises `UsageError` where both name one, and they
    differ.
    """
    address, _, query = url.partition("?")
    if address.partition(":")[0] in ("model", "replay"):
        raise UsageError(f"{url} has no power monitor: take rtl:power, or a board")
    if address.partition(":")[0] != "rtl":
        return url, kind
    named = dict(parse_qsl(query)).get("sensor")
    if named is not None:
        if kind not in (None, named):
            raise UsageError(f"{url} has another sensor than --sensor {kind}: name one of them")
        return url, named
    kind = SIMULATED if kind is None else kind
    address = "rtl:power" if address in ("rtl", "rtl:") else address
    return f"{address}?{query + '&' if query else ''}sensor={kind}", kind


def number(text: str | None, kind: str | None = None) -> int:
    """Of an address, such as 0x40; None: the first one of the sensor's bus. Raises `UsageError`."""
    if text is None:
        return _FIRST[CHIPS[kind].bus] if kind in CHIPS else FIRST_ADDRESS
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"address {text!r} is no number: give such as {FIRST_ADDRESS:#x}") from None


def one(
    url: str,
    kind: str | None,
    address: int,
    shunt_ohm: float | None,
    most_amps: float | None,
    shunt_error: float,
    serial: str = "",
    page: int = 0,
    scope: str | None = None,
    power: str = "iv",
) -> tuple[Rail, ...]:
    """One rail, by options. Raises `UsageError` for what is missing or cannot be."""
    if kind is None:
        raise UsageError(NONE_NAMED)
    if shunt_ohm is None and _needs_shunt(kind) and urlsplit(url).scheme == "rtl":
        shunt_ohm = SIMULATED_OHM
    if shunt_ohm is None and _needs_shunt(kind):
        raise UsageError("no --shunt-ohm: give the ohms of the shunt, which is printed on it: R100 is 0.1")
    return (Rail("supply", kind, address, shunt_ohm, most_amps, shunt_error, serial, page, scope=scope, power=power),)


def _needs_shunt(kind: object) -> bool:
    """A regulator has none, and the converter in a chip is wired on its board."""
    return kind not in CHIPS or (CHIPS[kind].update_s is None and CHIPS[kind].shunt_ohm is None)


def load(path: Path) -> tuple[Rail, ...]:
    """Of a TOML file with a table [[rail]] for each: the fields of `Rail`. Raises `UsageError`."""
    try:
        tables = tomllib.loads(path.read_text()).get("rail", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read as rails ({error}): give a TOML file with [[rail]] tables") from None
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{path} has no table [[rail]]: give name, kind, address and shunt_ohm in one for each sensor")
    found = []
    for table in tables:
        unknown = sorted(set(table) - set(NAMES))
        needed = ("name", "kind", "address", *["shunt_ohm"] * _needs_shunt(table.get("kind")))
        missing = [name for name in needed if name not in table]
        if unknown or missing:
            what = f"unknown {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
            raise UsageError(f"{path}: a [[rail]] has {what}; its names are {', '.join(NAMES)}")
        try:
            found.append(Rail(**table))
        except TypeError as error:
            raise UsageError(f"{path}: a [[rail]] has a value of another type ({error})") from None
    return tuple(found)
