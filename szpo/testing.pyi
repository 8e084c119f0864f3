from .models.local_engines import check_engine as check_engine
from .policies.protocol import check_policy as check_policy
from .voting.evaluator import check_evaluator as check_evaluator
from .voting.evaluator import check_judge as check_judge
