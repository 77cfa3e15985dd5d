"""What a sweep may vary, and nothing else: each space is data, its keys fields of the configuration."""
