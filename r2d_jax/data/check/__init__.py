"""The data check; in: rows as they stream by, out: findings of its rules, and whether a run may start."""
