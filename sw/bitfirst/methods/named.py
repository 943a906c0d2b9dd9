"""Methods by name, as the command line has them."""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from ..errors import UsageError
from .dfq import DFQ, FracTrain
from .e2train import E2Train
from .fc_only import FCOnly
from .floating import FP16, FP32
from .method import Method
from .pfq import PFQ
from .sbm import SBM
from .schedules import CPT, ByHand, Int8Int12, Static
from .skipnet import SkipNet
from .slu import SLU
from .smb import SMB
from .smd import SMD
from .stochastic_depth import StochasticDepth
from .swa import SWA

NAMES: dict[str, Callable[..., Method]] = {
    "sgd": Method,
    "smd": SMD,
    "smb": SMB,
    "swa": SWA,
    "pfq": PFQ,
    "byhand": ByHand,
    "cpt": CPT,
    "static": Static,
    "sbm": SBM,
    "fp32": FP32,
    "fp16": FP16,
    "fconly": FCOnly,
    "int8int12": Int8Int12,
    "slu": SLU,
    "skipnet": SkipNet,
    "sd": StochasticDepth,
    "e2train": E2Train,
    "dfq": DFQ,
    "fractrain": FracTrain,
}


def named(text: str, **defaults: Any) -> Method:
    """Of such as "smd" or "smd:p=0.3,coast=true"; `defaults` for settings that the method has and `text` does not set.

    Raises `UsageError` for a name or setting that is unknown, and values of another kind.
    """
    name, _, rest = text.partition(":")
    taken = inspect.signature(NAMES[name]).parameters if NAMES[name] is not Method else {}
    known = {key: one for key, one in taken.items() if any(kind in _READERS for kind in _kinds(one.annotation))}
    settings = {key: value for key, value in defaults.items() if key in taken}
    for setting in filter(None, rest.split(",")):
        key, equals, value = setting.partition("=")
        if not equals or key not in known:
            raise UsageError(f"method {name} has no setting {setting!r}: choose from {', '.join(known) or 'none'}")
        settings[key] = _value(name, key, value, known[key].annotation)
    return NAMES[name](**settings)


def _value(name: str, key: str, text: str, kind: Any) -> Any:
    """`text` as what `kind`, an annotation such as `float | None`, allows."""
    allowed = _kinds(kind)
    if type(None) in allowed and text == "none":
        return None
    for one in allowed:
        try:
            return _READERS[one](text)
        except (KeyError, ValueError):
            continue
    raise UsageError(f"method {name}: {key} = {text!r} is not {getattr(kind, '__name__', kind)}")


def _kinds(annotation: Any) -> list[Any]:
    """What it allows: [float, NoneType] of `float | None`, [tuple] of `tuple[float, ...]`."""
    one_of = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return [typing.get_origin(one) or one for one in (typing.get_args(annotation) if one_of else (annotation,))]


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_READERS: dict[Any, Callable[[str], Any]] = {
    bool: _truth,
    int: int,
    float: float,
    str: str,
    tuple: lambda text: tuple(float(part) for part in text.split("-")),
}
