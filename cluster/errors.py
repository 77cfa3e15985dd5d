"""What can go wrong between us and a Ray cluster, each as one readable line."""


class ClusterError(RuntimeError):
    """The cluster refuses or cannot do what was asked; trying again will not help."""


class Unreachable(ClusterError):
    """The cluster did not answer; another try may."""
