"""Hard negatives of training queries: mined, filtered, merged, kept, audited."""
