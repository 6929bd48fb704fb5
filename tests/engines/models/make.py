"""Make ``tiny_lstm.tflite`` again: ``python tests/engines/models/make.py`` (starts TensorFlow; tests read the file).

A fused LSTM with a fixed batch of 1: its interpreter keeps state between calls unless the session resets it.
"""

import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
import tf_keras as keras

if __name__ == "__main__":
    keras.utils.set_random_seed(3)
    steps = keras.Input((5, 3), batch_size=1, name="steps")
    hidden = keras.layers.LSTM(6)(steps)
    model = keras.Model(steps, {"score": keras.layers.Dense(1)(hidden), "copy": keras.layers.Dense(1)(hidden)})
    (Path(__file__).parent / "tiny_lstm.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
