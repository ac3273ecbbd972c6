"""The optimizer step over the tensors of models."""

from asv_suite import measured

COUNTS = [1, 2, 8, 32, 128, 1000, "each"]


class OptimizerStep(measured.Checked):
    """AdamW over LoRA on BERT-base, with one rate and with many."""

    case = "optimizer_step"
    params = [["ours", "fused"], [1, 32]]
    param_names = ["implementation", "rates"]


class MemoryCopy(measured.Timed):
    """What memory gives when nothing else is in the way: where this moves, the machine has moved."""

    case = "memory_copy"


if measured.ALL:

    class OptimizerStepRates(measured.Checked):
        """AdamW over 1000 tensors, by the number of rates."""

        case = "optimizer_step"
        fixed = {"shapes": "thousand"}
        params = [["ours", "fused", "foreach", "default"], COUNTS]
        param_names = ["implementation", "rates"]

    class OptimizerStepModels(measured.Checked):
        """AdamW over the shapes of real models."""

        case = "optimizer_step"
        params = [
            ["resnet50", "vit_b16", "bert_base", "gpt2_small", "lora_bert", "gaussians"],
            ["ours", "fused"],
            [1, "each"],
        ]
        param_names = ["shapes", "implementation", "rates"]

    class OptimizerStepOptimizers(measured.Checked):
        """Each of the optimizers."""

        case = "optimizer_step"
        params = [["adamw", "adam", "sgd"], ["ours", "fused"], [1, 32]]
        param_names = ["optimizer", "implementation", "rates"]

    class OptimizerStepCompiled(measured.Checked):
        """torch.compile around torch's own step."""

        case = "optimizer_step"
        fixed = {"implementation": "compiled"}
        params = [[1, 8]]
        param_names = ["rates"]

    class OptimizerStepCold(measured.Checked):
        """Each step after a forward and backward pass of its model."""

        case = "optimizer_step"
        fixed = {"caches": "cold", "rates": "layers"}
        params = [["mlp", "transformer"], ["ours", "fused"]]
        param_names = ["shapes", "implementation"]

    class OptimizerStepThreads(measured.Checked):
        """ResNet-50's tensors on one thread and on two."""

        case = "optimizer_step"
        fixed = {"shapes": "resnet50", "rates": 32}
        params = [["ours", "fused"], [1, 2]]
        param_names = ["implementation", "threads"]

    class MemoryCopyThreads(measured.Timed):
        """The same on two threads."""

        case = "memory_copy"
        params = [[1, 2]]
        param_names = ["threads"]
