"""Paint one picture with NVIDIA's tritonclient alone, over HTTP. Nothing of underpaint is imported.

pip install 'tritonclient[http]' pillow
python client/tritonclient_http.py [host:8000]
"""

import json
import sys

import numpy as np
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput


def tensor(name: str, datatype: str, value: object) -> InferInput:
    """An input of shape [1]."""
    dtype = {"BYTES": np.object_, "INT64": np.int64, "FP32": np.float32}[datatype]
    declared = InferInput(name, [1], datatype)
    return declared.set_data_from_numpy(np.array([value], dtype))


def main(url: str = "localhost:8000") -> None:
    inputs = [
        tensor("prompt", "BYTES", b"a large yellow star in the centre, on a blue background"),
        tensor("num_inference_steps", "INT64", 25),
        tensor("guidance_scale", "FP32", 3.0),
        tensor("seed", "INT64", 1),
    ]
    with InferenceServerClient(url) as client:
        # request_id and deadline_ms are parameters, not tensors; both may be left out.
        answer = client.infer("generate", inputs, parameters={"request_id": "my-star", "deadline_ms": 60_000})
    Image.fromarray(answer.as_numpy("image")).save("star.png")
    outcome = json.loads(answer.as_numpy("outcome").item())
    print("star.png", outcome["variant"], outcome["timings_ms"])


if __name__ == "__main__":
    main(*sys.argv[1:])
