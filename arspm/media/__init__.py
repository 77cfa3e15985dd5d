"""Clips: reading dataset formats, decoding sound and frames, and preparing one clip's speech and face."""
