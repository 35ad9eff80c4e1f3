"""A host of exported graphs, for an environment without PyTorch: `python fresh_host.py JOB ARGUMENT`, JSON in and out.

Jobs: `graphs FOLDER` runs each graph of a folder by onnxruntime alone; `omni FILE` does by `omni.runtime` what the file
asks for.
"""

import importlib.util
import json
import sys
from importlib.metadata import distributions
from pathlib import Path


def graphs(folder):
    """The shape of each output of each graph, on inputs of the manifest's shapes, and whether it is finite."""
    import onnxruntime

    manifest = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
    found = {}
    for name, part in manifest["parts"].items():
        for variant, entry in part["variants"].items():
            session = onnxruntime.InferenceSession(Path(folder) / entry["file"], providers=["CPUExecutionProvider"])
            sizes = {}
            inputs = {one["name"]: value(one, sizes) for one in part["inputs"]}
            found[f"{name} {variant}"] = {"sizes": sizes, "outputs": [seen(one) for one in session.run(None, inputs)]}
    return found


def value(one, sizes):
    """An input of the manifest; a new free axis gets a size of its own from 2 on, which `sizes` keeps by name."""
    import numpy as np

    shape = [axis if isinstance(axis, int) else sizes.setdefault(axis, 2 + len(sizes)) for axis in one["shape"]]
    if one["dtype"] == "float":
        return np.random.default_rng(0).random(shape, dtype=np.float32)
    return np.ones(shape, dtype=one["dtype"])


def seen(output):
    import numpy as np

    return {"shape": output.shape, "finite": bool(np.isfinite(output).all())}


def omni(file):
    """Transcripts, classes and continuations."""
    from omni.decoding.sampling_options import Sampling
    from omni.runtime import ImageClassifier, Recognizer, TextGenerator

    given = json.loads(Path(file).read_text(encoding="utf-8"))
    return {
        "transcripts": [one.text for one in Recognizer(given["recognizer"]).transcribe(given["audio"])],
        "classes": ImageClassifier(given["classifier"]).classify(given["images"]),
        "texts": [
            TextGenerator(folder).generate(given["prompts"], max_tokens=24, sampling=Sampling(**sampling))
            for folder in given["generators"]
            for sampling in given["samplings"]
        ],
    }


if __name__ == "__main__":
    result = {"graphs": graphs, "omni": omni}[sys.argv[1]](sys.argv[2])
    packages = sorted({one.metadata["Name"].lower() for one in distributions()})
    torch = importlib.util.find_spec("torch") is not None
    print(json.dumps({"result": result, "packages": packages, "torch": torch}))
