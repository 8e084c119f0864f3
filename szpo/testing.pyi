from .evaluators.checks import check_evaluator as check_evaluator
from .evaluators.checks import check_judge as check_judge
from .generation.engine_choice import check_engine as check_engine
from .policies.protocol import check_policy as check_policy
from .reports.adapter import check_adapter as check_adapter
