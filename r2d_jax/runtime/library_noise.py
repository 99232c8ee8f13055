"""What libraries print of faults that are told anyway; in: this process, out: nothing but what no error tells."""

import logging
import sys

# Orbax reports every save through absl, and each failure with a trace before it is raised. Of a damaged checkpoint it
# raises the first fault and leaves those of the other arrays to asyncio, which prints them one by one.
_LOGGERS = ("absl", "asyncio")


def quiet_libraries() -> None:
    """Leave out of standard error what Orbax and TensorStore print beside the errors that they raise."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # TensorStore's threads have nobody to raise to.
    sys.unraisablehook = _without_late_answers


def _without_late_answers(fault: "sys.UnraisableHookArgs") -> None:
    """Not those of arrays that TensorStore still reads when Orbax has given a damaged checkpoint up."""
    if not (fault.exc_type is RuntimeError and str(fault.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(fault)
