"""Analysis of task specialisation: how much single parameters of a trained model belong to single tasks."""
