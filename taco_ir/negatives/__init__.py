"""Hard negatives: mines them from rankings, filters, merges, stores and audits them."""
