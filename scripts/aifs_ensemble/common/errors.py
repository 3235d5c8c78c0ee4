"""Errors a user may meet, each with its own exit code.

Every error is one line that names the file or key, the value found and what was expected.
The exit codes are part of the interface: rules, cloud adapters and users' scripts read them.
"""


class WorkflowError(Exception):
    """Base of every error that is explained in one line instead of a traceback."""

    exit_code = 1


class ConfigError(WorkflowError):
    """A configuration key, command-line value or table entry is wrong."""

    exit_code = 2


class InputError(WorkflowError):
    """Initial conditions are missing, incomplete or implausible."""

    exit_code = 3


class CheckpointError(WorkflowError):
    """The checkpoint is absent, not the one listed, or does not fit the model entry."""

    exit_code = 4


class GpuMemoryError(WorkflowError):
    """The forecast does not fit in GPU memory."""

    exit_code = 5


class PassChangedError(WorkflowError):
    """The accelerated forward pass is given up: `reason` says why. A member that began with it is made afresh."""

    def __init__(self, where: str, reason: str):
        super().__init__(
            f"{where}: began with the accelerated forward pass, which is not used any more ({reason}); run again, and "
            "its leads are made afresh with the model's own"
        )
        self.reason = reason


class DiskFullError(WorkflowError):
    """Scratch or destination has no room left."""

    exit_code = 6


class NotFiniteError(WorkflowError):
    """A forecast field holds NaN or infinity."""

    exit_code = 7


class StorageError(WorkflowError):
    """The destination could not be reached, or refused, within the deadline."""

    exit_code = 8


class VerificationError(WorkflowError):
    """Content differs from its manifest."""

    exit_code = 9


class DownloadError(WorkflowError):
    """No source delivered the requested initial conditions within the deadline."""

    exit_code = 10


class EncodingError(WorkflowError):
    """A GRIB message could not be encoded, or an encoder process died."""

    exit_code = 11


class CloudError(WorkflowError):
    """A rented machine could not be had, or its job failed outside our code."""

    exit_code = 12


class PlanError(WorkflowError):
    """A plan does not fit memory, scratch, deadline, budget or region."""

    exit_code = 13


class OtherRunError(WorkflowError):
    """Another run makes the cycle at the same destination."""

    exit_code = 14


class StoppedError(WorkflowError):
    """The process was asked to stop (SIGTERM) and did so with its state intact."""

    exit_code = 143


class InterruptedByUserError(StoppedError):
    """The process was asked to stop by Ctrl-C and did so with its state intact."""

    exit_code = 130
