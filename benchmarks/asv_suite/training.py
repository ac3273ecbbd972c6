"""Whole training steps, short trainings by each implementation, and populations."""

from asv_suite import measured


class TrainingStep(measured.Checked):
    """Forward, backward and AdamW step of a transformer of 4 layers, a rate for each tensor."""

    case = "training_step"
    fixed = {"rates": "each"}


class ShortTraining(measured.Checked):
    """Ten AdamW steps of the main model from its first weights."""

    case = "short_training"


class PopulationTraining(measured.Checked):
    """Ten epochs of 256 networks side by side."""

    case = "population_training"


if measured.ALL:

    class TrainingStepEager(measured.Checked):
        """With one rate and with a rate for each tensor."""

        case = "training_step"
        params = [["ours", "fused"], [1, "each"]]
        param_names = ["implementation", "rates"]

    class TrainingStepModels(measured.Checked):
        """Small models of the kinds that people train."""

        case = "training_step"
        params = [
            ["mlp", "transformer", "transformer-short", "encoder", "convolution", "lora", "splats", "actor-critic"],
            ["ours", "fused"],
        ]
        param_names = ["model", "implementation"]

    class TrainingStepCompiled(measured.Checked):
        """Forward and backward pass compiled."""

        case = "training_step"
        fixed = {"mode": "compiled", "rates": "each"}

    class ShortTrainingModels(measured.Checked):
        """Models of several kinds."""

        case = "short_training"
        params = [["main", "convolution", "transformer block", "3-D linear"]]
        param_names = ["model"]

    class ShortTrainingOptimizers(measured.Checked):
        """Optimizers, ours and torch's fused ones."""

        case = "short_training"
        params = [["adamw", "sgd"], ["ours", "torch-fused"]]
        param_names = ["optimizer", "implementation"]

    class PopulationTrainingMembers(measured.Checked):
        """By the number of members."""

        case = "population_training"
        params = [[16, 256, 4096]]
        param_names = ["members"]
