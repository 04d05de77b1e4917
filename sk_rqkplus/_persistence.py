"""Fitted estimators as arrays and plain values, and back, without code of the file.

Only the kinds of values that are listed here are written, and only they are read. What
a method relies on is checked on load: a file that was changed may be signed anew.
"""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

from sk_rqkplus._fitted import check_fitted
from sk_rqkplus._records import Column, join_records, part_records
from sk_rqkplus._store import Stamp, read_any_store, write_store
from sk_rqkplus._tensors import is_storable
from sk_rqkplus._version import __version__
from sk_rqkplus.ids import Catalogue

# Of the format: raised where an older package would read a folder wrongly.
VERSION = 1
# Parameters that would make a later fit run what it finds in a folder.
NEVER_SAVED = ("memory",)
PACKAGES = ("numpy", "safetensors", "scikit-learn", "scipy", "skorch", "torch")
MAX_DEPTH = 50
# What values of a damaged file raise.
ERRORS = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
Classes = Mapping[str, type]


def write_model(
    path: str | PathLike,
    estimator: Any,
    classes: Classes,
    instead_of: Stamp | None = None,
) -> None:
    """Write a fitted estimator to a folder, whole or not at all."""
    packer = Packer(classes)
    values = packer.estimator(estimator, ())
    kind = values.pop("class")
    write_store(
        path,
        packer.arrays,
        {**values, "packages": _packages()},
        kind=kind,
        version=VERSION,
        instead_of=instead_of,
    )


def read_model(path: str | PathLike, classes: Classes, kinds: Mapping[str, int]) -> Any:
    """Read an estimator, or a catalogue, of one of some kinds."""
    kind, arrays, values = read_any_store(path, kinds)
    try:
        if kind == Catalogue.__name__:
            return Catalogue._unpack(arrays, values)
        values = {name: values[name] for name in ("parameters", "attributes")}
        unpacker = Unpacker(classes, arrays)
        estimator = unpacker.estimator({"class": kind, **values})
        if not values["attributes"] or unpacker.unused():
            raise ValueError("the arrays are not those of a fitted estimator")
        return estimator
    except ERRORS as error:
        raise ValueError(
            f"path={str(path)!r} should hold a fitted {kind} that this version of "
            f"sk-rqkplus can read, and does not: {error}. Upgrade sk-rqkplus, or save "
            "it again."
        ) from error


def check_savable(estimator: Any, classes: Classes) -> None:
    """Raise what :func:`write_model` would, as far as it is known before the fit."""
    Packer(classes).parameters(estimator, ())


def _packages() -> dict[str, str]:
    """Versions that made a file, to be read by people."""
    found = {"python": platform.python_version(), "sk-rqkplus": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Packer:
    """Parts an estimator into JSON values and named arrays.

    Parameters
    ----------
    classes : dict of str to type
        The estimators that may be written.
    """

    def __init__(self, classes: Classes):
        self.classes = classes
        self.arrays: dict[str, np.ndarray] = {}
        # An array that two attributes share is written once.
        self._names: dict[int, str] = {}

    def estimator(self, estimator: Any, path: tuple[str, ...]) -> dict[str, Any]:
        """Class, parameters and fitted attributes."""
        attributes = {
            name: value
            for name, value in vars(estimator).items()
            # Callbacks of scikit-learn watch a fit, and are no part of it.
            if name not in estimator._get_param_names() and "_callback" not in name
        }
        if attributes.keys() <= {"_sklearn_output_config"}:
            # Of a part that was never fitted: what it would return, nobody asks.
            attributes = {}
        unknown = sorted(attributes.keys() - set(estimator._fitted_attributes))
        if unknown:
            name = ".".join([*path, unknown[0]])
            raise ValueError(
                f"{name} should not be there to be saved: it is no attribute of a fit. "
                "Delete it, or use joblib.dump."
            )
        parameters = self.parameters(estimator, path)
        if attributes:
            try:
                check_fitted(estimator)
            except ERRORS as error:
                # Or else it could not be loaded.
                raise ValueError(
                    f"{'.'.join([*path, type(estimator).__name__])} should be as its "
                    f"fit left it to be saved, but {error}. Set parameters and "
                    "attributes back, or fit again."
                ) from error
        return {
            "class": type(estimator).__name__,
            "parameters": parameters,
            "attributes": self._items(attributes, path),
        }

    def parameters(self, estimator: Any, path: tuple[str, ...]) -> dict[str, Any]:
        """Constructor parameters."""
        estimator._validate_params()
        params = estimator.get_params(deep=False)
        for name in NEVER_SAVED:
            if params.get(name) is not None:
                raise ValueError(
                    f"{'.'.join([*path, name])}={params[name]!r} should be None to be "
                    "saved: a fit runs what it finds in such a folder. Call "
                    f"set_params({name}=None), which leaves what is fitted as it is."
                )
        return self._items(params, path)

    def _items(self, items: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        return {name: self.value(each, (*path, name)) for name, each in items.items()}

    def value(self, value: Any, path: tuple[str, ...]) -> Any:
        """JSON value; objects of JSON have one entry, which says what they stand for.

        Types are compared as such: what a subclass adds would be lost.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if np.isfinite(value) else {"float": repr(value)}
        if kind in (list, tuple, dict) and len(path) < MAX_DEPTH:
            return self._container(value, path)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value, path)
        if isinstance(value, PurePath):
            return {"path": str(value)}
        if kind is torch.device:
            return {"device": str(value)}
        if kind is FrozenEstimator:
            return {"frozen": self.value(value.estimator, path)}
        if kind is Catalogue:
            return self._catalogue(value, path)
        if self.classes.get(kind.__name__) is kind:
            return {"estimator": self.estimator(value, path)}
        raise _unsavable(value, path)

    def _container(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            if not all(type(key) is str for key in value):
                raise _unsavable(value, path)
            return {"dict": self._items(value, path)}
        if isinstance(value, list) and value and all(type(v) is dict for v in value):
            columns = part_records(value)
            if columns is not None:
                return {"records": self._columns(columns, path)}
        items = [self.value(each, (*path, str(i))) for i, each in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}

    def _columns(
        self, columns: Mapping[str, Column], path: tuple[str, ...]
    ) -> dict[str, Any]:
        """Names of the arrays of each column."""
        return {
            name: [
                self._store(values, (*path, name)),
                None if rows is None else self._store(rows, (*path, f"{name}:rows")),
            ]
            for name, (values, rows) in columns.items()
        }

    def _array(self, value: Any, path: tuple[str, ...]) -> Any:
        if type(value) is np.str_:
            return str(value)
        array = np.asarray(value)
        if array.dtype == object and array.ndim == 1:
            if all(type(each) is str for each in array):
                return {"strings": array.tolist()}
        if not is_storable(array.dtype) or isinstance(value, np.ma.MaskedArray):
            raise _unsavable(value, path)
        if isinstance(value, np.generic):
            return {"scalar": self._store(array, path)}
        return {"array": self._store(value, path)}

    def _store(self, array: np.ndarray, path: tuple[str, ...]) -> str:
        """Name of an array in the file."""
        if id(array) in self._names:
            return self._names[id(array)]
        name = ".".join(path)
        while name in self.arrays:
            # A name may have dots of its own.
            name += "'"
        # Kept alive, so that its identity is not given to another one.
        self.arrays[name] = array
        self._names[id(array)] = name
        return name

    def _catalogue(self, catalogue: Catalogue, path: tuple[str, ...]) -> dict[str, Any]:
        arrays, values = catalogue._pack()
        names = {
            name: self._store(each, (*path, name)) for name, each in arrays.items()
        }
        return {"catalogue": {"values": values, "arrays": names}}


def _unsavable(value: Any, path: tuple[str, ...]) -> ValueError:
    name = ".".join(path)
    return ValueError(
        f"{name}={value!r} cannot be saved, and should be None, a number, a string, an "
        "array, or a list, tuple or dict of them. Change it with set_params, which "
        "leaves what is fitted as it is, or use joblib.dump."
    )


class Unpacker:
    """Puts an estimator together again, and checks every part of it.

    Parameters
    ----------
    classes : dict of str to type
        The estimators that may be made.

    arrays : dict of str to ndarray
        Arrays that values name.
    """

    def __init__(self, classes: Classes, arrays: Mapping[str, np.ndarray]):
        self.classes = classes
        self.arrays = arrays
        self._used: set[str] = set()

    def unused(self) -> set[str]:
        """Names of arrays that no value named."""
        return self.arrays.keys() - self._used

    def estimator(self, content: dict[str, Any]) -> Any:
        """Estimator of its class, parameters and attributes."""
        kind = self.classes[content["class"]]
        parameters = content["parameters"]
        unknown = sorted(parameters.keys() - set(kind._get_param_names()))  # type: ignore[attr-defined]
        if unknown:
            raise ValueError(f"{unknown[0]} is no parameter of {kind.__name__}")
        for name in NEVER_SAVED:
            if parameters.get(name) is not None:
                raise ValueError(f"{name} should be None")
        values = {name: self.value(each) for name, each in parameters.items()}
        estimator = kind(**values)
        estimator._validate_params()
        attributes = content["attributes"]
        if attributes:
            unknown = sorted(attributes.keys() - set(estimator._fitted_attributes))
            if unknown:
                raise ValueError(f"{unknown[0]} is no attribute of a fit")
            for name, each in attributes.items():
                vars(estimator)[name] = self.value(each)
            check_fitted(estimator)
        return estimator

    def value(self, value: Any) -> Any:
        """Value of what :meth:`Packer.value` made."""
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        return UNPACK[kind](self, content)

    def array(self, name: str) -> np.ndarray:
        """Array of a name."""
        self._used.add(name)
        return self.arrays[name]

    def frozen(self, content: Any) -> FrozenEstimator:
        """Estimator that clone leaves fitted."""
        return FrozenEstimator(self.value(content))

    def catalogue(self, content: dict[str, Any]) -> Catalogue:
        """Catalogue of a model."""
        arrays = {key: self.array(name) for key, name in content["arrays"].items()}
        return Catalogue._unpack(arrays, content["values"])

    def records(self, content: dict[str, Any]) -> list[dict[str, Any]]:
        """History of a training."""
        names = [name for pair in content.values() for name in pair if name is not None]
        if len({*names}) < len(names) or self._used.intersection(names):
            # Or else a small file could fill the memory with a large array many times.
            raise ValueError("columns of records should be arrays of their own")
        return join_records(
            {
                name: (self.array(values), None if rows is None else self.array(rows))
                for name, (values, rows) in content.items()
            }
        )

    def strings(self, content: list) -> np.ndarray:
        """Array of objects, such as names of features."""
        if not all(isinstance(each, str) for each in content):
            raise TypeError("strings should be strings")
        return np.array(content, dtype=object)


UNPACK: dict[str, Any] = {
    "array": Unpacker.array,
    "catalogue": Unpacker.catalogue,
    "device": lambda self, content: torch.device(content),
    "dict": lambda self, content: {key: self.value(v) for key, v in content.items()},
    "estimator": Unpacker.estimator,
    "float": lambda self, content: float(content),
    "frozen": Unpacker.frozen,
    "path": lambda self, content: Path(content),
    "records": Unpacker.records,
    "scalar": lambda self, content: self.array(content)[()],
    "strings": Unpacker.strings,
    "tuple": lambda self, content: tuple(self.value(each) for each in content),
}
