"""hotspare: a trained model in, a measured and signed primary and backup out."""

__version__ = "0.1.0"
