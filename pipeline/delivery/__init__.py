"""Delivery: a place that holds promoted releases in content-defined chunks, and the node that fetches what it lacks."""
