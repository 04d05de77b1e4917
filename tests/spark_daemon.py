"""Spark's daemon of Python workers, with the package imported once for all of them."""

import runpy

import sk_rqkplus.distributed.spark  # noqa: F401

if __name__ == "__main__":
    runpy.run_module("pyspark.daemon", run_name="__main__", alter_sys=True)
