"""Metrics: numbers about predictions, on plain arrays.

* accuracy: over all, by class, as a confusion matrix;
* classes: precision, recall and F1 of each, and the means that count every class the same;
* calibration: expected calibration error, negative log-likelihood, the bins of a calibration plot;
* diversity: how differently members err, what their vote and their oracle get right;
* intervals: how sure a share or a mean is;
* rank: agreement of two rankings;
* shift: whether two samples come from one distribution;
* profiles: which examples each member gets right, in an order that shows the structure.

FLOPs and parameters are counted from the genome, where they live.
"""

from graftwork.metrics._accuracy import accuracy, accuracy_by_class, confusion_matrix
from graftwork.metrics._calibration import (
    Reliability,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)
from graftwork.metrics._classes import (
    METRICS,
    OF_WHOLE_MEMBERS,
    ClassScores,
    Metric,
    balanced_accuracies,
    class_scores,
    class_shares,
)
from graftwork.metrics._diversity import (
    Diversity,
    disagreement,
    diversity,
    double_fault,
    majority_vote,
    oracle_accuracy,
    q_statistic,
)
from graftwork.metrics._entry import Entry, difference
from graftwork.metrics._intervals import bootstrap_interval, wilson_interval
from graftwork.metrics._profiles import Profile, ProfileRow, make_profile, order_examples
from graftwork.metrics._rank import kendall_tau
from graftwork.metrics._shift import sample_distance

__all__ = [
    "METRICS",
    "OF_WHOLE_MEMBERS",
    "ClassScores",
    "Diversity",
    "Entry",
    "Metric",
    "Profile",
    "ProfileRow",
    "Reliability",
    "accuracy",
    "accuracy_by_class",
    "balanced_accuracies",
    "bootstrap_interval",
    "class_scores",
    "class_shares",
    "confusion_matrix",
    "difference",
    "disagreement",
    "diversity",
    "double_fault",
    "expected_calibration_error",
    "kendall_tau",
    "majority_vote",
    "make_profile",
    "negative_log_likelihood",
    "oracle_accuracy",
    "order_examples",
    "q_statistic",
    "reliability",
    "sample_distance",
    "wilson_interval",
]
