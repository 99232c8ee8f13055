"""A local web page and JSON API for one model; in: notes over HTTP, out: labels with reasons, nothing kept on disk."""
