"""Exported models at work without PyTorch: numpy, onnxruntime, and the files of `omni export --to onnx`."""
