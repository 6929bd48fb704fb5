"""One model in one process behind HTTP, as people write it: the worker that HAProxy balances in the comparison.

``python benchmarks/plain_worker.py BUNDLE --trust T.yaml --port P [--orders DIR]``. Same bundle, engine, web server
and JSON library as ours. The model runs in the event loop, so a hung model does not answer its health check: that is
kind to the balancer, which else would see a ready worker.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.core.clock import utc_now
from pipeline.core.errors import HotspareError
from pipeline.core.tensors import Array
from pipeline.drill.faulty_session import faulty
from pipeline.drill.live.judging import BUNDLE_HEADER, ROLE_HEADER
from pipeline.engines.base import Session
from pipeline.engines.open import open_session
from pipeline.runtime.http.tensors import DATATYPES

_DTYPES = {datatype: name for name, datatype in DATATYPES.items()}


def open_bundle(bundle: VerifiedBundle, orders: Path | None) -> Session:
    """Open the bundle's model; with a folder of orders, one that can be told to do wrong."""
    entry = bundle.manifest.entrypoint
    opener = open_session if orders is None else faulty(orders)
    return opener(entry.format, bundle.files[entry.path], bundle.manifest.runtime.threads)


def build_app(bundle: VerifiedBundle, session: Session, role: str) -> Starlette:
    """Return the application: readiness and inference."""
    stamp = {BUNDLE_HEADER: bundle.bundle_id, ROLE_HEADER: role, "content-type": "application/json"}

    async def ready(_request: Request) -> Response:
        return Response()

    async def infer(request: Request) -> Response:
        asked = orjson.loads(await request.body())
        try:
            outputs = session.run({one["name"]: _array(one) for one in asked["inputs"]})
        except HotspareError as error:
            return Response(orjson.dumps({"error": str(error)}), 500)
        answer = {"model_name": bundle.model, "outputs": [_tensor(name, array) for name, array in outputs.items()]}
        return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), headers=stamp)

    path = f"/v2/models/{bundle.model}/infer"
    return Starlette(routes=[Route("/v2/health/ready", ready), Route(path, infer, methods=["POST"])])


def _array(tensor: dict[str, Any]) -> Array:
    return np.array(tensor["data"], _DTYPES[tensor["datatype"]]).reshape(tensor["shape"])


def _tensor(name: str, array: Array) -> dict[str, object]:
    flat = np.ascontiguousarray(array).ravel()
    return {"name": name, "shape": array.shape, "datatype": DATATYPES[array.dtype.name], "data": flat}


def main() -> None:
    """Serve one bundle."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--trust", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--role", default="primary")
    parser.add_argument("--orders", type=Path)
    args = parser.parse_args()
    bundle = verify_bundle(args.bundle, load_policy(args.trust), utc_now())
    session = open_bundle(bundle, args.orders)
    app = build_app(bundle, session, args.role)
    uvicorn.run(app, port=args.port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
