"""What a run's directory contains: stages, sweeps and progress."""
