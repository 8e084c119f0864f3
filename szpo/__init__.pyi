from . import plots as plots
from .library.result import Result as Result
from .library.result import Sample as Sample
from .library.result import TextPair as TextPair
from .library.tuner import Tuner as Tuner
from .library.vector import Optimizer as Optimizer
from .library.vector import Pair as Pair
from .notices.callbacks import Callback as Callback
from .notices.callbacks import RunFacts as RunFacts
from .reports.dataframes import open as open
from .training.step_report import StepReport as StepReport

__version__: str
