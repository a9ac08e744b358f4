"""Studies: run the conditions of a file, each with several seeds, score them, and keep records of the scores."""
