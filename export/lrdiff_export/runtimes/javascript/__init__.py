"""onnxruntime-web and -node: installing, worker processes, the backend."""
