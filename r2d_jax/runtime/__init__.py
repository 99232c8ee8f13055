"""Devices, mesh, checkpoints and reporting; in: config, out: placed arrays and files."""
