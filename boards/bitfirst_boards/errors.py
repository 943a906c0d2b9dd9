"""The error of builds."""


class FlowError(ValueError):
    """What was asked for cannot be built, or put on a board; the message is one line that names the mend."""
