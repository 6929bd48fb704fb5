"""The HTTP front: the Open Inference Protocol v2, administration, metrics and a status page on the Service port."""
