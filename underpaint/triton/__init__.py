"""What runs inside tritonserver. The only room that imports ``triton_python_backend_utils``."""
