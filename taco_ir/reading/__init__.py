"""The reader: question and passages in, the span that answers out."""
