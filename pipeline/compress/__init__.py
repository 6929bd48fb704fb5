"""Variants (training side processes), schemes, calibration and coverage: a trained model in, candidates out."""
