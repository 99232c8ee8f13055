"""Where rationales come from and what they are worth; in: labelled rows, out: rows with new rationales, or scores."""
