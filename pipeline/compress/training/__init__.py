"""The training side process: ``python -m pipeline.compress.training JOB.json``; nothing imports it, files come out.

TensorFlow takes 10 s to import and tfmot switches Keras for the whole process, so one process makes one variant.
"""
