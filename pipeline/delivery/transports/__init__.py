"""Where depots live: a folder, an HTTP server, an object store, or the memory of a test."""
