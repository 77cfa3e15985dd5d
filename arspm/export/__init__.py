"""A trained model as one folder: `folder` writes and reads it, `onnx_networks` writes and checks its ONNX files."""
