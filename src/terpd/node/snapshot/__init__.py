"""Saved machines: taking them, naming what they were made of, and refusing what does not fit."""
