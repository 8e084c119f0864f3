from . import plots as plots
from .analysis.dataframes import open as open
from .runs.callbacks import Callback as Callback
from .runs.callbacks import RunFacts as RunFacts
from .tuner import Result as Result
from .tuner import Sample as Sample
from .tuner import TextPair as TextPair
from .tuner import Tuner as Tuner
from .vector_optimizer import Optimizer as Optimizer
from .vector_optimizer import Pair as Pair
from .voting.applied_step import StepReport as StepReport

__version__: str
