"""Faults given on purpose: what a drill does to a pair. Nothing that serves for real imports this room."""
