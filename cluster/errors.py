"""Errors in dealing with a Ray cluster. Each message is one readable line."""


class ClusterError(RuntimeError):
    """The cluster refused a request or cannot fulfil it; a retry will not help."""


class Unreachable(ClusterError):
    """The cluster did not answer; a retry may help."""
