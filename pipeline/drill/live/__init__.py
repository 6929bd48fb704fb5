"""Drills on real processes: real load, real faults, every answer judged."""
