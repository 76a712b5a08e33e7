"""The two ways a command can end badly."""


class ClusterError(Exception):
    """Something that should have worked did not."""


class CannotHere(ClusterError):
    """This machine or this user cannot run the cluster; the message says how to mend it.

    Callers such as a test suite may skip with this reason instead of failing.
    """
