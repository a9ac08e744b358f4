"""Hard negatives: mined from rankings, filtered, merged, kept in files, audited."""
