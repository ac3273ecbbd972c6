"""Export, prediction, and the start of the command line."""

from asv_suite import measured

BACKENDS = ["onnxruntime", "eager", "eager-bf16", "onnxruntime-disabled", "onnx-reference", "openvino"]


class Export(measured.Checked):
    """A 10-256-256-1 network into the bytes of an ONNX file."""

    case = "export"


class Inference(measured.Checked):
    """Prediction of a batch by a 10-256-256-1 network."""

    case = "inference"
    params = [["onnxruntime", "eager"], [1, 32]]
    param_names = ["backend", "batch"]


class Prediction(measured.Checked):
    """Prediction of all held-out rows of the main model."""

    case = "prediction"
    params = [["onnxruntime", "eager"]]
    param_names = ["backend"]


class PredictionParity(measured.Counted):
    """Backends whose predictions of the main model are within their tolerance of float64."""

    case = "prediction"
    params = [["main"]]
    param_names = ["model"]


class CommandStart(measured.Timed):
    """``lrdiff --help`` in a new process."""

    case = "command_start"


if measured.ALL:

    class InferenceBackends(measured.Checked):
        """Every way to run it, and larger batches."""

        case = "inference"
        params = [["onnxruntime", "eager", "compiled"], [1, 32, 1024]]
        param_names = ["backend", "batch"]

    class PredictionModels(measured.Checked):
        """Every built-in model on every quick backend."""

        case = "prediction"
        params = [BACKENDS, ["main", "convolution", "transformer", "digits"]]
        param_names = ["backend", "model"]

    class CommandStartDoctor(measured.Timed):
        """``lrdiff doctor`` in a new process."""

        case = "command_start"
        params = [["--help", "doctor"]]
        param_names = ["command"]
