"""What hears a search beside the terminal: loggers, and a pruner of Optuna.

A `graftwork.session.Listener` is told of stages, updates and generations. `make_logger` makes one that hands numbers to
a `Sink`: ``csv`` (a table in the run folder), ``tensorboard``, ``mlflow`` or ``wandb`` (`SINKS`), each of them imported
only when it is asked for; `SinkListener` does so for a sink of your own. `Listeners` tells several at once.
`OptunaListener` reports generations to a trial, and ends a search that its pruner gives up.
"""

from graftwork.loggers._listeners import Listeners, Sink, SinkListener
from graftwork.loggers._optuna import OptunaListener
from graftwork.loggers._sinks import SINKS, CsvSink, MlflowSink, TensorBoardSink, WandbSink, make_logger

__all__ = [
    "SINKS",
    "CsvSink",
    "Listeners",
    "MlflowSink",
    "OptunaListener",
    "Sink",
    "SinkListener",
    "TensorBoardSink",
    "WandbSink",
    "make_logger",
]
