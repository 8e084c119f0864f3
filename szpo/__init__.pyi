from . import plots as plots
from .reports.dataframes import open as open
from .result import Result as Result
from .result import Sample as Sample
from .result import TextPair as TextPair
from .runs.callbacks import Callback as Callback
from .runs.callbacks import RunFacts as RunFacts
from .tuner import Tuner as Tuner
from .vector import Optimizer as Optimizer
from .vector import Pair as Pair
from .voting.step_report import StepReport as StepReport

__version__: str
