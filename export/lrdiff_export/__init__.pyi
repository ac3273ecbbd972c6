from .model.ports import Port as Port, read_ports as read_ports
from .model.text_inputs import TextInputs as TextInputs
from .onnx_file.convert import DEFAULT_OPSET as DEFAULT_OPSET, convert_to_onnx as convert_to_onnx
from .onnx_file.load import load_onnx as load_onnx
from .parity.parity import check_parity as check_parity, check_subjects as check_subjects
from .parity.subjects import (
    Subject as Subject,
    subject_of_file as subject_of_file,
    subject_of_module as subject_of_module,
)
from .publish.bundle import verify_bundle as verify_bundle
from .publish.export import (
    VerificationFailed as VerificationFailed,
    export as export,
    export_onnx as export_onnx,
)
from .publish.latency import LatencyReport as LatencyReport, measure_latency as measure_latency
from .publish.metadata import (
    ModelCard as ModelCard,
    model_card as model_card,
    read_model_card as read_model_card,
    text_inputs_of as text_inputs_of,
)
from .publish.report import BundleReport as BundleReport, ExportReport as ExportReport
from .publish.request import ExportOptions as ExportOptions
from .publish.tabular import export_tabular as export_tabular, word_options as word_options
from .publish.targets import TARGETS as TARGETS, Target as Target, find_target as find_target
from .publish.variants import Allowance as Allowance, VariantReport as VariantReport
from .runtimes import BACKENDS as BACKENDS, Backend as Backend, register_backend as register_backend
from .runtimes.predictor import OnnxPredictor as OnnxPredictor
from .runtimes.sandbox import (
    Limits as Limits,
    Sandbox as Sandbox,
    inspect_untrusted as inspect_untrusted,
    run_untrusted as run_untrusted,
)
from .runtimes.versions import RuntimeInfo as RuntimeInfo, describe_runtimes as describe_runtimes
from .verify.backend_result import BackendResult as BackendResult, ParityReport as ParityReport
from .verify.compare import Budget as Budget, Verdict as Verdict
from .verify.diagnose import Diagnosis as Diagnosis, NodeError as NodeError
from .verify.golden import GoldenReport as GoldenReport, verify_golden as verify_golden
from .verify.inputs import Battery as Battery
from .verify.reference import Reference as Reference
from .verify.verify import (
    CaseResult as CaseResult,
    VerificationReport as VerificationReport,
    verify_onnx as verify_onnx,
)
