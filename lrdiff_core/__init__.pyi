from .checkpoint import load_checkpoint as load_checkpoint, save_checkpoint as save_checkpoint
from .config import (
    PRESETS as PRESETS,
    CompareConfig as CompareConfig,
    RunConfig as RunConfig,
    load_config as load_config,
    make_config as make_config,
)
from .data import (
    BUILTIN_TABLES as BUILTIN_TABLES,
    ColumnSpec as ColumnSpec,
    Split as Split,
    Table as Table,
    load_table as load_table,
    read_features as read_features,
    split_table as split_table,
)
from .devices import (
    choose_device as choose_device,
    compiler_status as compiler_status,
    device_status as device_status,
    repeatable as repeatable,
)
from .errors import LrdiffError as LrdiffError
from .estimators import LrdiffClassifier as LrdiffClassifier, LrdiffRegressor as LrdiffRegressor
from .loop import (
    Observation as Observation,
    Trained as Trained,
    evaluate as evaluate,
    fit as fit,
    score_name as score_name,
    train as train,
)
from .model import (
    ModelSpec as ModelSpec,
    Predictor as Predictor,
    TabularNet as TabularNet,
    build_model as build_model,
    constant_columns as constant_columns,
)
from .optim import SGD as SGD, Adam as Adam, AdamW as AdamW, MuonAdamW as MuonAdamW
from .rates import (
    HeadMultiplier as HeadMultiplier,
    LayerDecay as LayerDecay,
    LoRAPlus as LoRAPlus,
    RatePlan as RatePlan,
    Rule as Rule,
    Slices as Slices,
    WidthScale as WidthScale,
    layer_rates as layer_rates,
    param_groups as param_groups,
)
from .schedules import Schedule as Schedule, Shape as Shape
from .setup import (
    Setup as Setup,
    prepare as prepare,
    set_up as set_up,
)

__version__: str
