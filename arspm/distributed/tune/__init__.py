"""Ray Tune: sweeps of encoder trials."""
