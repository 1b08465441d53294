"""The real supervisor with real workers, driven over its WebSocket."""
