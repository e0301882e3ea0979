"""Checkpoints as they are published, behind one interface, and what it takes to read files of strangers safely."""
