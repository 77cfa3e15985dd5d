"""Ray Train: data-parallel training workers."""
