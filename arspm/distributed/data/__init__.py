"""Ray Data: preprocessing, streaming rows to training workers, batch inference."""
