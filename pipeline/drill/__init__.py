"""Disasters on purpose."""
