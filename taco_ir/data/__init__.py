"""Files to queries and passages."""
