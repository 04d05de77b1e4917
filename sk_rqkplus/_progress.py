"""How far a fit is: a bar with the time left, and scikit-learn's callbacks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from tqdm.auto import tqdm

Tick = Callable[..., bool]
# Work of a second or two passes without a bar.
BAR_DELAY = 2.0


@contextmanager
def progress(estimator, n_steps: int, step: str) -> Iterator[Tick]:
    """Report the steps of a fit.

    Parameters
    ----------
    estimator : estimator
        The estimator being fitted; its ``verbose`` turns the bar on, its callbacks
        (scikit-learn >= 1.9) are told of every step.

    n_steps : int
        Most steps that the fit may take.

    step : str
        Name of a step, for the bar and the callbacks.

    Yields
    ------
    tick : callable
        ``tick(to=None, **figures)`` ends a step; ``to`` is the number of steps that
        count as done where some were not needed, and the figures are shown beside the
        bar. Returns whether a callback asks to stop.
    """
    context = None
    if hasattr(estimator, "_init_callback_context"):
        context = estimator._init_callback_context(max_subtasks=n_steps)
        context.call_on_fit_task_begin(estimator=estimator)
    name = type(estimator).__name__
    with tqdm(
        total=n_steps, desc=name, unit=step, disable=not estimator.verbose
    ) as bar:

        def tick(to: int | None = None, **figures: float) -> bool:
            """End a step."""
            bar.set_postfix(
                {key: f"{value:.4g}" for key, value in figures.items()}, refresh=False
            )
            bar.update(1 if to is None else max(0, to - bar.n))
            if context is None or to is not None:
                return False
            leaf = context.subcontext(task_name=step)
            leaf.call_on_fit_task_begin(estimator=estimator)
            return bool(leaf.call_on_fit_task_end(estimator=estimator))

        yield tick
    if context is not None:
        context.call_on_fit_task_end(estimator=estimator)


def delayed_bar(n_steps: int, unit: str, verbose: int) -> tqdm:
    """Bar of work that may be short: it shows after two seconds, and goes away.

    Parameters
    ----------
    n_steps : int
        Number of steps.

    unit : str
        Name of a step.

    verbose : int
        Whether to show it at all.

    Returns
    -------
    bar : tqdm
        The bar, a context manager.
    """
    return tqdm(
        total=n_steps, unit=unit, disable=not verbose, delay=BAR_DELAY, leave=False
    )


def tell(text: str) -> None:
    """Write a line beside the bars of a fit.

    Parameters
    ----------
    text : str
        The line.
    """
    tqdm.write(text, file=sys.stderr)


@contextmanager
def waiting(what: str, verbose: int) -> Iterator[None]:
    """Show the time that passes while work without steps is done, after two seconds.

    Parameters
    ----------
    what : str
        Name of the work.

    verbose : int
        Whether to show it at all.
    """
    done = Event()

    def show() -> None:
        if done.wait(BAR_DELAY):
            return
        with tqdm(
            bar_format=f"{what} {{elapsed}}", delay=BAR_DELAY, leave=False
        ) as bar:
            bar.start_t -= BAR_DELAY
            while not done.wait(0.5):
                bar.refresh()

    if not verbose:
        yield
        return
    clock = Thread(target=show, daemon=True)
    clock.start()
    try:
        yield
    finally:
        done.set()
        clock.join()


def is_watched() -> bool:
    """Tell whether someone can see a bar: whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()
