"""Analysis of task specialisation: how far the parameters of a trained model are each specific to one task."""
