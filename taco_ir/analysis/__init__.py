"""How far the parameters of a trained model belong to single tasks."""
