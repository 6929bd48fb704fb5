"""The pair: a primary and its hot standby, served together on one machine."""
