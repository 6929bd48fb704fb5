"""Candidates: variants (training/), schemes, calibration."""
