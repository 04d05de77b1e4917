"""What a fit or an encoding of a large table costs: time, memory, bytes moved."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from sk_rqkplus._threads import block_rows

# Bytes of a value of an embedding, of a sum, and of a code or a key with its overhead.
VALUE, SUM, CODE, KEY = 4, 8, 4, 8
# Bytes of a token such as "<a_8191>".
TOKEN = 8
# Rows that are encoded at a time, and how many copies of them there are meanwhile:
# as Arrow, as the matrix, and centred in float64.
BATCH_ROWS, COPIES = 16_384, 4
# A codebook is kept as float32, as float64 and as products are packed.
BOOKS = 4
# Times that Spark and Dask move or copy the rows before the first iteration.
PASSES_BEFORE = 3


class Cost(NamedTuple):
    """Cost of a job.

    Attributes
    ----------
    seconds : float
        Wall-clock time with all workers.

    memory : float
        Bytes that a worker needs at a time.

    moved : float
        Bytes that are read, written or sent between processes, by all together.
    """

    seconds: float
    memory: float
    moved: float


class Run(NamedTuple):
    """A measured encoding, by one worker.

    Attributes
    ----------
    n_rows, n_features : int
        Shape of the table.

    codebook_sizes : sequence of int
        Codewords of each level.

    seconds : float
        How long it took.
    """

    n_rows: int
    n_features: int
    codebook_sizes: Sequence[int]
    seconds: float


@dataclass(frozen=True)
class CostModel:
    """Time, memory and traffic from the size of a table.

    A worker is one core. Encoding ``n`` rows of ``d`` features takes::

        seconds = (2 n d sum(K) / flops + n d / values + n / rows) / workers

    one term for the products with codewords, one for the values that are read and
    converted, and one for what is written per row.

    Attributes
    ----------
    flops : float
        Multiplications and additions per second of a core, in encoding.

    values : float
        Values per second that a core reads and converts.

    rows : float
        Rows per second that a core writes: codes and tokens.

    job : float, default=0.3
        Seconds that an engine needs to start a job on all workers and to collect the
        results; a fit is a few hundred jobs.

    process : float, default=4e8
        Bytes of a Python process that has imported the package.

    network : float, default=1e9
        Bytes per second that the driver receives.

    Examples
    --------
    >>> from sk_rqkplus.distributed.cost import CostModel
    >>> model = CostModel(flops=1e11, values=1e8, rows=1e6)
    >>> cost = model.encode(10**9, 768, (8192,) * 3, workers=1000)
    >>> f"{cost.seconds / 3600:.2f} h, {cost.moved / 1e12:.1f} TB"
    '0.11 h, 3.2 TB'
    """

    flops: float
    values: float
    rows: float
    job: float = 0.3
    process: float = 4e8
    network: float = 1e9

    @classmethod
    def calibrated(cls, runs: Iterable[Run], **constants: float) -> "CostModel":
        """Model whose three rates explain measured runs.

        By non-negative least squares, where errors count relative to the time of a run.
        A rate that no run needs is infinite.

        Parameters
        ----------
        runs : iterable of Run
            Encodings by one worker, of different widths and codebook sizes.

        **constants : float
            The other parameters.

        Returns
        -------
        model : CostModel
            With ``flops``, ``values`` and ``rows`` from the runs.

        Raises
        ------
        ValueError
            If there are fewer than three runs.

        Examples
        --------
        >>> from sk_rqkplus.distributed.cost import CostModel, Run
        >>> runs = [Run(1000, 64, (256,), 1.0), Run(1000, 64, (512,), 1.5)]
        >>> model = CostModel.calibrated([*runs, Run(1000, 128, (256,), 2.0)])
        >>> round(model.encode(1000, 64, (1024,)).seconds, 6)
        2.5
        """
        runs = list(runs)
        if len(runs) < 3:
            raise ValueError(
                f"runs={len(runs)} should be >= 3. Measure tables of different widths "
                "and codebooks of different sizes."
            )
        work = np.array(
            [(2 * n * d * sum(sizes), n * d, n) for n, d, sizes, _ in runs],
            dtype=np.float64,
        )
        work /= np.array([[run.seconds] for run in runs])
        unit = work.max(axis=0)
        found, _ = nnls(work / unit, np.ones(len(runs)))
        with np.errstate(divide="ignore"):
            rates = (unit / found).tolist()
        return cls(*rates, **constants)

    def encode(
        self,
        n_rows: int,
        n_features: int,
        codebook_sizes: Sequence[int],
        *,
        workers: int = 1,
    ) -> Cost:
        """Cost of encoding a table.

        Parameters
        ----------
        n_rows, n_features : int
            Shape of the table.

        codebook_sizes : sequence of int
            Codewords of each level.

        workers : int, default=1
            Number of cores.

        Returns
        -------
        cost : Cost
            The table is read, and keys, codes and tokens are written; nothing is sent
            between workers but the model.
        """
        n_words, n_levels = sum(codebook_sizes), len(codebook_sizes)
        seconds = n_rows * (
            2 * n_features * n_words / self.flops
            + n_features / self.values
            + 1 / self.rows
        )
        model = BOOKS * VALUE * n_features * n_words
        batch = COPIES * BATCH_ROWS * n_features * VALUE
        scores = BATCH_ROWS * max(codebook_sizes) * VALUE
        row = VALUE * n_features + KEY + (CODE + TOKEN) * n_levels
        return Cost(
            seconds / workers,
            self.process + model + batch + scores,
            n_rows * row + workers * VALUE * n_features * n_words,
        )

    def fit(
        self,
        n_rows: int,
        n_features: int,
        codebook_sizes: Sequence[int],
        *,
        workers: int = 1,
        driver: int = 1,
        max_samples: int | None = None,
        n_iter: int = 15,
        n_sweeps: int = 10,
        n_balanced: int = 1,
    ) -> Cost:
        """Cost of a fit on an engine.

        Parameters
        ----------
        n_rows, n_features : int
            Shape of the table.

        codebook_sizes : sequence of int
            Codewords of each level.

        workers : int, default=1
            Number of cores.

        driver : int, default=1
            Number of cores of the machine that learns the codebooks of a sample.

        max_samples : int, optional
            Rows that codebooks are learnt from, on the driver; None means all rows,
            whose sums the engine adds up.

        n_iter : int, default=15
            Lloyd iterations of a level.

        n_sweeps : int, default=10
            Passes over all rows that find the prices of a balanced level.

        n_balanced : int, default=1
            Number of balanced levels.

        Returns
        -------
        cost : Cost
            Every level is one pass over all rows, a balanced one ``n_sweeps`` more.
            With ``max_samples`` the iterations are on the driver; without it, sums of
            ``8 K d`` bytes come there from every block in every iteration, and once
            more for a joint refinement, after which rows are encoded anew.
        """
        n_levels, n_blocks = len(codebook_sizes), -(-n_rows // block_rows(n_rows))
        sizes, level = np.array(codebook_sizes), np.arange(n_levels)
        sweeps = n_sweeps * (level >= n_levels - n_balanced)
        on_all = not max_samples
        iterations = on_all * (n_iter + 1)
        passes = 1 + on_all + iterations + sweeps
        products = 2 * n_features * float(passes @ sizes)
        # A pass computes residuals anew from the rows and the labels.
        values = n_features * float(passes @ (2 + level))
        sample = max_samples or 0
        alone = sample * n_iter * 2 * n_features * float(sizes.sum())
        sums = n_features * iterations * sizes + 2 * sweeps * sizes
        collected = SUM * n_blocks * float(sums.sum()) + VALUE * sample * n_features
        table = VALUE * n_rows * n_features
        seconds = (
            n_rows * (products / self.flops + values / self.values) / workers
            + alone / self.flops / driver
            + collected / self.network
            + self.job * float(passes.sum())
        )
        block = COPIES * block_rows(n_rows) * n_features * VALUE
        scores = BATCH_ROWS * max(codebook_sizes) * VALUE
        memory = self.process + block + scores + table / workers
        return Cost(seconds, memory, PASSES_BEFORE * table + collected)
