"""Runs Olive in an environment of its own: ``OLIVE_PYTHON olive_driver.py MODEL.onnx CALIBRATION.npz OUT_DIR``.

Writes ``OUT_DIR/<pass>.onnx`` for each pass that worked and ``OUT_DIR/told.json``: Olive's version, why other passes
did not. Every pass runs with Olive's own defaults, through ``olive.run``; only the calibration rows are given. Imports
nothing of hotspare: the two may want other versions of the same packages. Olive loads this file as its user script too,
for the rows.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import olive
from olive.data.registry import Registry

PASSES = {
    "static int8": {"type": "OnnxStaticQuantization", "data_config": "rows"},
    "dynamic int8": {"type": "OnnxDynamicQuantization"},
    "float16": {"type": "OnnxFloatToFloat16", "keep_io_types": True},
    "int4 blocks": {"type": "OnnxBlockWiseRtnQuantization"},
}
_BESIDE_INPUTS = {"y", "group", "weight"}


@Registry.register_dataset()
def npz_rows(path: str, **_: object) -> list[tuple[dict[str, np.ndarray], int]]:
    """Return the rows of an npz split as (inputs by name, no label)."""
    with np.load(path) as arrays:
        inputs = {name: arrays[name] for name in arrays.files if name not in _BESIDE_INPUTS}
    rows = len(next(iter(inputs.values())))
    return [({name: values[row] for name, values in inputs.items()}, 0) for row in range(rows)]


def workflow(model: str, calibration: str, olive_pass: dict[str, object], out: Path) -> dict[str, object]:
    """Return the run configuration of one pass on the CPU."""
    rows = {
        "name": "rows",
        "user_script": str(Path(__file__).resolve()),
        "load_dataset_config": {"type": "npz_rows", "path": calibration},
        "dataloader_config": {"type": "default_dataloader", "batch_size": 64},
    }
    return {
        "input_model": {"type": "OnnxModel", "model_path": model},
        "data_configs": [rows],
        "passes": {"only": olive_pass},
        "log_severity_level": 3,
        "output_dir": str(out),
        "cache_dir": str(out.with_name(f"{out.name}-cache")),
    }


def main() -> None:
    """Run every pass by itself."""
    model, calibration, target = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    failures = {}
    for name, olive_pass in PASSES.items():
        out = target / f"run {name}".replace(" ", "-")
        try:
            found = olive.run(workflow(model, calibration, dict(olive_pass), out))
            best = found.get_best_candidate()
            shutil.copy(best.model_path, target / f"{name}.onnx")
        except Exception as error:  # noqa: BLE001 - whatever a rival raises is its result
            failures[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    (target / "told.json").write_text(json.dumps({"version": olive.__version__, "failures": failures}))


if __name__ == "__main__":
    main()
