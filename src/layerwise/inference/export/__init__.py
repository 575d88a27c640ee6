"""Networks on their way out: ``.onnx``, ``.pt2`` and ``.safetensors``, each checked against the network before it is
kept."""
