"""Training: batches, loss, training loop and checkpoints."""

TRACKERS = {
    "tensorboard": "taco_ir.training.trackers:TensorBoard",
    "wandb": "taco_ir.training.trackers:WeightsAndBiases",
    "mlflow": "taco_ir.training.trackers:MLflow",
    "trackio": "taco_ir.training.trackers:Trackio",
}
DOSE = {  # figures of a training's dose, and what they are called
    "cosine": "cosine with the mean of the tasks' gradients",
    "scaled_cosine": "cosine after AdamW's division",
    "opposed": "signs that differ",
    "specific": "task-specific parameters",
}
