"""Parts that `omni export --to onnx` exports, each as a graph with the constants that its host needs."""
