"""The spaces that a sweep may search. Each is data: its keys are fields of the configuration."""
