"""Export to ``.onnx``, ``.pt2``, ``.safetensors`` and files of word vectors, each checked against the network."""
