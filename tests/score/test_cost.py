"""Cost figures: exact bytes, interleaved timing, memory of a fresh process."""

import subprocess
import sys

import pytest
import zstandard

from pipeline.core.errors import ModelError
from pipeline.core.names import Format, Scheme
from pipeline.core.records import CandidateRecord
from pipeline.score.cost import interleave, measure_size, measure_timings, probe


def record(bits):
    return CandidateRecord("dense", Scheme.W8, Format.TFLITE, "f", "0", "0", "test", 100, bits, 0.9, 0.5)


def test_zeros_show_in_compressed_bytes_and_not_in_bytes():
    zeros, reference = b"\0" * 50_000, 100_000
    size = measure_size(record(8.0), zeros, record(32.0), reference)
    assert (size.bytes, size.volume_ratio, size.precision_ratio) == (50_000, 0.5, 0.25)
    assert (size.deployment_efficiency, size.saving_ratio) == (0.125, 0.875)
    assert size.bytes_zstd < 100
    assert size.bytes_zstd == len(zstandard.ZstdCompressor(level=19).compress(zeros))


def test_the_two_models_are_timed_in_turn():
    calls = []
    ours, theirs = interleave(lambda: calls.append("a"), lambda: calls.append("b"))
    assert len(ours) == len(theirs) >= 30
    assert calls == ["a", "b"] * (len(calls) // 2)


def test_the_ratio_is_of_the_medians_of_one_run(fixture_models):
    path = fixture_models / "tiny_dense.tflite"
    timings = measure_timings(path, Format.TFLITE, 1, 1, lambda: sum(range(20_000)), lambda: sum(range(2_000)))
    assert 4 < timings.latency_ratio_p50 < 25
    assert 0 < timings.latency_p50_ms <= timings.latency_p95_ms
    assert (timings.rows, timings.threads) == (1, 1)


@pytest.mark.parametrize(("file", "model_format"), [("tiny_dense.tflite", "tflite"), ("tiny_embedding.onnx", "onnx")])
def test_a_fresh_process_reports_its_load_time_and_memory(fixture_models, file, model_format):
    load_ms, rss_mb = probe(fixture_models / file, Format(model_format), 3, 1)
    assert 0 < load_ms < 60_000
    assert 15 < rss_mb < 500


def test_a_file_that_cannot_be_loaded_is_named_with_the_reason(tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"broken\.tflite cannot be loaded.*not a tflite model"):
        probe(path, Format.TFLITE, 1, 1)


def test_the_fresh_process_loads_nothing_of_the_build_side():
    heavy = "{'tensorflow','mlflow','rich','zstandard','matplotlib','sklearn','onnx','pipeline.data'}"
    code = f"import sys, pipeline.score.probe; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
