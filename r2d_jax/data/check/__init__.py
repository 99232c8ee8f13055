"""The data check: rules over rows as they stream by, and what a run does with what they find."""
