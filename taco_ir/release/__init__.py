"""How the encoder that ships is made: small weights, model card, lineage."""
