"""Looks for the number format of every layer: sensitivities from real files, a plan, real files, a certificate."""
