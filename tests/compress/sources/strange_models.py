"""Writes real SavedModels into the folder of the first argument: honest ones, and ones that reach beyond computing."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_USE_LEGACY_KERAS="1", CUDA_VISIBLE_DEVICES="-1")

import keras
import tensorflow as tf
import tf_keras
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.trackable.resource import TrackableResource

FOLDER = Path(sys.argv[1]).resolve()
LOOT = str(FOLDER / "loot")


def module(answer: Callable[[Any], Any]) -> tf.Module:
    """Return a module with a variable whose signature adds what ``answer`` makes of its rows."""
    holder = tf.Module()
    holder.table = tf.Variable(tf.ones((4, 3)))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "row")])
    def serve(row: Any) -> dict[str, Any]:
        return {"answer": row @ holder.table + tf.cast(answer(row), tf.float32)}

    holder.serve = serve
    return holder


def nothing(row: Any) -> Any:
    return 0.0


def write_file(row: Any) -> Any:
    tf.io.write_file(LOOT, "written")
    return 0.0


def read_file(row: Any) -> Any:
    return tf.reduce_sum(tf.io.decode_raw(tf.io.read_file("/etc/hostname"), tf.uint8))


def write_in_a_branch(row: Any) -> Any:
    return tf.cond(tf.reduce_sum(row) > 0, lambda: write_file(row), lambda: 0.0)


def write_in_a_loop(row: Any) -> Any:
    return tf.while_loop(lambda step: step < 2.0, lambda step: step + 1.0 + write_file(row), [0.0])[0]


def python(row: Any) -> Any:
    return tf.py_function(lambda value: value, [row[0, 0]], tf.float32)


def save(row: Any) -> Any:
    tf.raw_ops.SaveV2(prefix=LOOT, tensor_names=["a"], shape_and_slices=[""], tensors=[row])
    return 0.0


def restore(row: Any) -> Any:
    return tf.raw_ops.RestoreV2(prefix=LOOT, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])[0]


def debug(row: Any) -> Any:
    tf.raw_ops.DebugIdentityV2(input=row, debug_urls=[f"file://{LOOT}"])
    return 0.0


def mapped_memory(row: Any) -> Any:
    return tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[], memory_region_name="/etc/hostname")


def records(row: Any) -> Any:
    return tf.data.TFRecordDataset("/etc/hostname").reduce(0.0, lambda total, _: total + 1.0)


def listing(row: Any) -> Any:
    return tf.size(tf.io.matching_files("/etc/*"))


def printed(row: Any) -> Any:
    tf.print("written", output_stream=f"file://{LOOT}")
    return 0.0


def summary(row: Any) -> Any:
    writer = tf.raw_ops.SummaryWriter(shared_name="a", container="")
    tf.raw_ops.CreateSummaryFileWriter(writer=writer, logdir=LOOT, max_queue=1, flush_millis=1, filename_suffix="")
    return 0.0


ATTACKS = (write_file, read_file, write_in_a_branch, write_in_a_loop, python, save, restore, debug, mapped_memory,
           records, listing, printed, summary)  # fmt: skip


class WritesWhenLoaded(TrackableResource):
    """A resource that TensorFlow initializes while it loads the file."""

    def _create_resource(self) -> Any:
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.int64, shared_name="a")

    def _initialize(self) -> Any:
        return tf.io.write_file(LOOT, "written")


def write_module(holder: tf.Module, name: str, **others: Any) -> None:
    tf.saved_model.save(holder, str(FOLDER / name), signatures={"serving_default": holder.serve, **others})


def write_attacks() -> None:
    for attack in ATTACKS:
        write_module(module(attack), attack.__name__)
    hidden = module(nothing)
    hidden.resource = WritesWhenLoaded()
    _ = hidden.resource.resource_handle
    write_module(hidden, "write_when_loaded")
    beside = module(nothing)
    beside.other = module(write_file)
    write_module(beside, "write_in_another_signature", other=beside.other.serve)
    words = FOLDER / "words.txt"
    words.write_text("a\nb\n")
    table = module(nothing)
    table.words = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        ),
        1,
    )
    write_module(table, "table_of_a_file")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        row = tf.compat.v1.placeholder(tf.float32, [None, 4], "row")
        tf.compat.v1.saved_model.simple_save(session, str(FOLDER / "tensorflow_1"), {"row": row}, {"answer": row * 2})


def net(library: Any) -> Any:
    """Return a small model with layers that have state, randomness and loops of their own."""
    layers = library.layers
    image, words = library.Input((16, 16, 1)), library.Input((8,), dtype="int32")
    seen = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    seen = layers.GlobalAveragePooling2D()(layers.Dropout(0.2)(seen))
    read = layers.LSTM(4)(layers.Embedding(10, 4)(words))
    model = library.Model([image, words], layers.Dense(1, "gelu")(layers.Concatenate()([seen, read])))
    model.compile("adam", "mse", metrics=["mae"])
    return model


def write_honest() -> None:
    net(tf_keras).save(FOLDER / "keras_2")
    net(keras).export(str(FOLDER / "keras_3"), verbose=False)
    tabled = module(lambda row: tf.reduce_sum(tabled.counts.lookup(tf.cast(row[:, 0], tf.int64))))
    tabled.counts = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [2], tf.int64, tf.int64), 0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def images(encoded: Any) -> dict[str, Any]:
        first = tf.map_fn(lambda one: tf.cast(tf.io.decode_png(one)[0, 0, 0], tf.float32), encoded, tf.float32)
        return {"answer": first}

    tabled.images = images
    write_module(tabled, "tables_and_images", images=tabled.images)


def operators() -> list[dict[str, Any]]:
    known = op_def_pb2.OpList()
    known.ParseFromString(bytes(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())))
    return [
        {"name": item.name, "is_stateful": item.is_stateful, "attributes": [entry.name for entry in item.attr]}
        for item in known.op
    ]


write_honest()
write_attacks()
(FOLDER / "operators.json").write_text(json.dumps(operators()))
for name in ("write_file", "write_when_loaded"):  # they do what they are here for
    Path(LOOT).unlink(missing_ok=True)
    loaded = tf.saved_model.load(str(FOLDER / name))
    if name == "write_file":
        loaded.signatures["serving_default"](row=tf.ones((1, 4)))
    assert Path(LOOT).exists(), name
    Path(LOOT).unlink()
