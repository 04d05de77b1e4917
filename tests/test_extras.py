"""Checks on optional packages, and on what is said where they are missing."""

import sys

import numpy as np
import pytest

from sk_rqkplus._extras import require


def test_an_installed_module_is_returned():
    assert require("numpy", extra="any") is np


def test_a_dotted_name_gives_the_inner_module():
    assert require("numpy.linalg", extra="any") is np.linalg


@pytest.mark.parametrize(
    "module, extra",
    [("not_a_package_at_all", "plot"), ("numpy.not_a_module", "dask")],
)
def test_a_missing_module_comes_with_the_line_that_installs_it(module, extra):
    message = rf'{module} is needed here .* pip install "sk-rqkplus\[{extra}\]"'
    with pytest.raises(ImportError, match=message) as info:
        require(module, extra=extra)
    assert isinstance(info.value.__cause__, ModuleNotFoundError)


def test_a_package_that_is_blocked_counts_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(ImportError, match="json is needed here but could not be"):
        require("json", extra="plot")


def test_the_reason_of_a_broken_install_is_in_the_message(tmp_path, monkeypatch):
    (tmp_path / "broken_wheel.py").write_text(
        "raise ImportError('libfoo.so.1 is gone')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"broken_wheel .*\(libfoo.so.1 is gone\)"):
        require("broken_wheel", extra="plot")


def test_errors_that_are_no_missing_imports_pass_through(tmp_path, monkeypatch):
    (tmp_path / "faulty_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        require("faulty_module", extra="plot")
