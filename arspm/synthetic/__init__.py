"""Synthetic speakers: people who do not exist, whose voice and face depend on the same sex, age and body size."""
