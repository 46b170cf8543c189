"""The models that every server has, whatever its family: the front doors and the cache."""

from __future__ import annotations

from underpaint.requests import input_fields
from underpaint.triton import model_config as mc


def front_doors(calls: str) -> list[mc.ModelConfig]:
    """``calls``: the models without which they are not ready."""
    inputs = [mc.model_input("op", "STRING", [1], optional=True)]
    inputs += [
        mc.model_input(f.name, f.metadata["dtype"], f.metadata.get("dims", [1]), optional=True) for f in input_fields()
    ]
    outputs = [
        mc.model_output("image", "UINT8", [-1, -1, 3]),
        mc.model_output("png", "STRING", [1]),
        mc.model_output("outcome", "STRING", [1]),
    ]
    progress = mc.model_output("progress", "INT32", [2])
    # Its callers are outside; when its process dies, only closing their connections tells them.
    supervision = {"heartbeat": "true", "on_death": "restart_server", "calls": calls}
    return [
        mc.python_model("generate", inputs, outputs, parameters=supervision),
        mc.python_model("generate_stream", inputs, [*outputs, progress], decoupled=True, parameters=supervision),
    ]


def cache() -> mc.ModelConfig:
    """What was painted before. Its shapes follow from what is put in, so it serves every family."""
    inputs = [
        mc.model_input("op", "STRING", [1]),
        mc.model_input("space", "STRING", [1], optional=True),
        mc.model_input("scope", "STRING", [1], optional=True),
        mc.model_input("tenant", "STRING", [1], optional=True),
        mc.model_input("embedding", "FP32", [-1], optional=True),
        mc.model_input("top_k", "INT32", [1], optional=True),
        mc.model_input("max_generation", "INT32", [1], optional=True),
        mc.model_input("bring_from", "FP32", [-1], optional=True),
        mc.model_input("bring_step", "INT32", [-1], optional=True),
        mc.model_input("autoencoder", "STRING", [1], optional=True),
        mc.model_input("entry_id", "INT64", [1], optional=True),
        mc.model_input("step", "INT32", [1], optional=True),
        mc.model_input("entry", "STRING", [-1], optional=True),
        mc.model_input("images", "UINT8", [-1, -1, -1, 3], optional=True),
        mc.model_input("image_embeddings", "FP32", [-1, -1], optional=True),
        mc.model_input("text_embeddings", "FP32", [-1, -1], optional=True),
        mc.model_input("latents", "FP32", [-1, -1, -1, -1], optional=True),
        mc.model_input("latents_steps", "INT32", [-1], optional=True),
        mc.model_input("latents_counts", "INT32", [-1], optional=True),
    ]
    outputs = [
        mc.model_output("matches", "STRING", [1]),
        mc.model_output("image", "UINT8", [-1, -1, 3]),
        mc.model_output("latents", "FP32", [-1, -1, -1]),
        mc.model_output("entry_id", "INT64", [-1]),
        mc.model_output("entries", "INT64", [1]),
        mc.model_output("stats", "STRING", [1]),
        mc.model_output("alive_since_ns", "INT64", [1]),
    ]
    parameters = {
        "heartbeat": "true",
        "on_death": "reload",
        "store": "",  # the folder that the environment names, see cache/location.py
        "capacity": 10_000,
        "eviction": "fifo",
        "index": "cpu",  # or gpu, where faiss-gpu and a GPU are
    }
    return mc.python_model("cache", inputs, outputs, parameters=parameters)
