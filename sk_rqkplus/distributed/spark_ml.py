"""Stages of a ``pyspark.ml.Pipeline``: fit codebooks, and add codes."""

from typing import Any

from sk_rqkplus._extras import require
from sk_rqkplus.distributed.spark import (
    CODES,
    SparkRQKMeans,
    check_columns,
    encode_dataframe,
)

require("pyspark.ml", extra="spark")

from pyspark.ml import Estimator, Model  # noqa: E402
from pyspark.ml.param import Param, Params, TypeConverters  # noqa: E402
from pyspark.ml.param.shared import HasInputCol, HasOutputCol  # noqa: E402


class _Columns(HasInputCol, HasOutputCol):
    """The columns that a stage reads and writes."""

    keyCol: Param[str] = Param(
        Params._dummy(),
        "keyCol",
        "column of distinct item keys.",
        typeConverter=TypeConverters.toString,
    )

    def _set_columns(self, inputCol: str, outputCol: str, keyCol: str) -> None:
        self._set(inputCol=inputCol, outputCol=outputCol, keyCol=keyCol)

    def getKeyCol(self) -> str:
        """Name of the column of keys.

        Returns
        -------
        name : str
            The name.
        """
        return self.getOrDefault(self.keyCol)


class SemanticIDEstimator(Estimator, _Columns):
    """Stage that fits RQKMeans in a ``pyspark.ml.Pipeline``.

    Parameters
    ----------
    quantizer : SparkRQKMeans
        What to fit; it is cloned and stays as it is.

    inputCol : str, default="embedding"
        Column of embeddings: vectors of ``pyspark.ml.linalg`` or arrays of numbers.

    outputCol : str, default="codes"
        Column of codes to add, array<int>.

    keyCol : str, default="item_id"
        Column of distinct item keys.

    See Also
    --------
    SemanticIDModel : What the fit returns.

    Examples
    --------
    >>> from pyspark.ml import Pipeline  # doctest: +SKIP
    >>> stage = SemanticIDEstimator(SparkRQKMeans((256, 256)), "pca")  # doctest: +SKIP
    >>> Pipeline(stages=[pca, stage]).fit(df).transform(df)  # doctest: +SKIP
    """

    def __init__(
        self,
        quantizer: SparkRQKMeans,
        inputCol: str = "embedding",
        outputCol: str = "codes",
        keyCol: str = "item_id",
    ):
        super().__init__()
        if not isinstance(quantizer, SparkRQKMeans):
            raise TypeError(
                f"quantizer={type(quantizer).__name__} should be a SparkRQKMeans. Give "
                "a fitted model of one machine to SemanticIDModel."
            )
        self.quantizer = quantizer
        self._set_columns(inputCol, outputCol, keyCol)

    def _fit(self, dataset: Any) -> "SemanticIDModel":
        quantizer = SparkRQKMeans(**self.quantizer.get_params(deep=False))
        quantizer.fit(dataset, self.getInputCol(), key=self.getKeyCol())
        columns = self.getInputCol(), self.getOutputCol(), self.getKeyCol()
        return self._copyValues(SemanticIDModel(quantizer.estimator_, *columns))


class SemanticIDModel(Model, _Columns):
    """Stage that adds the codes of a fitted model.

    Parameters
    ----------
    model : estimator or Pipeline
        A fitted RQKMeans, RQKMeansPlus or RQVAE, or a scikit-learn Pipeline that ends
        in one. It is what to save: the stage itself has no writer.

    inputCol : str, default="embedding"
        Column of embeddings: vectors of ``pyspark.ml.linalg`` or arrays of numbers.

    outputCol : str, default="codes"
        Column of codes to add, array<int>.

    keyCol : str, default="item_id"
        Column of item keys, by which errors name a row.

    See Also
    --------
    SemanticIDEstimator : Stage that fits such a model.
    sk_rqkplus.distributed.spark.encode_dataframe : The same as a function.

    Examples
    --------
    >>> stage = SemanticIDModel(model, "embedding", "codes")  # doctest: +SKIP
    >>> stage.transform(df)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        inputCol: str = "embedding",
        outputCol: str = "codes",
        keyCol: str = "item_id",
    ):
        super().__init__()
        self.model = model
        self._set_columns(inputCol, outputCol, keyCol)

    def _transform(self, dataset: Any) -> Any:
        name = self.getOutputCol()
        check_columns(dataset, {}, [name, CODES])
        encoded = encode_dataframe(
            self.model, dataset, self.getInputCol(), key=self.getKeyCol(), tokens=False
        )
        return encoded.withColumnRenamed(CODES, name)
