"""Errors that a user can mend. The command line prints the message as one line and exits with code 2."""


class BitfirstError(Exception):
    """Something the user can mend; the message is one line and names how."""


class UsageError(BitfirstError):
    """A request that makes no sense as it stands: an unknown URL, nothing to convert, a bad value."""


class Diverged(UsageError):
    """Numbers of a training are not finite any more; the message names the first of them that was seen."""


class DeviceError(BitfirstError):
    """The device refused, answered nonsense, or does not fit this software."""


class LinkError(BitfirstError):
    """The device does not answer, or the link is dead."""
