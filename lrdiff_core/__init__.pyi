from .checkpoint import load_checkpoint as load_checkpoint
from .checkpoint import save_checkpoint as save_checkpoint
from .config import (
    PRESETS as PRESETS,
)
from .config import (
    CompareConfig as CompareConfig,
)
from .config import (
    RunConfig as RunConfig,
)
from .config import (
    load_config as load_config,
)
from .config import (
    make_config as make_config,
)
from .data import (
    BUILTIN_TABLES as BUILTIN_TABLES,
)
from .data import (
    Split as Split,
)
from .data import (
    Table as Table,
)
from .data import (
    load_table as load_table,
)
from .data import (
    read_features as read_features,
)
from .data import (
    split_table as split_table,
)
from .devices import (
    choose_device as choose_device,
)
from .devices import (
    compiler_status as compiler_status,
)
from .devices import (
    device_status as device_status,
)
from .devices import (
    repeatable as repeatable,
)
from .errors import LrdiffError as LrdiffError
from .loop import (
    Observation as Observation,
)
from .loop import (
    Setup as Setup,
)
from .loop import (
    Trained as Trained,
)
from .loop import (
    evaluate as evaluate,
)
from .loop import (
    fit as fit,
)
from .loop import (
    prepare as prepare,
)
from .loop import (
    score_name as score_name,
)
from .loop import (
    set_up as set_up,
)
from .loop import (
    train as train,
)
from .model import (
    ModelSpec as ModelSpec,
)
from .model import (
    Predictor as Predictor,
)
from .model import (
    TabularNet as TabularNet,
)
from .model import (
    build_model as build_model,
)
from .model import (
    constant_columns as constant_columns,
)
from .optim import SGD as SGD
from .optim import Adam as Adam
from .optim import AdamW as AdamW
from .optim import MuonAdamW as MuonAdamW
from .rates import (
    HeadMultiplier as HeadMultiplier,
)
from .rates import (
    LayerDecay as LayerDecay,
)
from .rates import (
    LoRAPlus as LoRAPlus,
)
from .rates import (
    RatePlan as RatePlan,
)
from .rates import (
    Rule as Rule,
)
from .rates import (
    Slices as Slices,
)
from .rates import (
    WidthScale as WidthScale,
)
from .rates import (
    layer_rates as layer_rates,
)
from .rates import (
    param_groups as param_groups,
)
from .schedules import Schedule as Schedule
from .schedules import Shape as Shape

__version__: str
