"""Metrics, test-set evaluation and result tables; in: predictions, out: figures."""
