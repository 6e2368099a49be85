"""The exceptions whose messages a user may read: one sentence with the cause, the allowed range and the remedy."""


class LabError(Exception):
    """Anything the user can mend. Pages and the command line show the message as it is; all else stays loud."""


class ParameterError(LabError, ValueError):
    """A parameter outside its allowed range."""


class AssetError(LabError):
    """A data set, network or result file that is missing, corrupt or of the wrong shape."""


class ResourceError(LabError):
    """Not enough memory or disk for what was asked."""


class QueueError(LabError):
    """The job queue can't take this job now."""


class JobCancelled(LabError):
    """The job was cancelled before it finished."""
