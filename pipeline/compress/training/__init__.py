"""TensorFlow's side: each module runs as a process of its own and is imported by nobody."""
