"""Teaching tasks to the query side of a frozen encoder, against an index that stays as it is."""
