"""Collections on disk: passages, topics and their gold, in KILT's and other formats."""
