"""Records become a stream of tasks, and tasks become batches.

Imports torch only with :mod:`lpi.tasks.batches`, which is not re-exported here.
"""

from lpi.data.records import normal_caption
from lpi.tasks.relevance import relevance
from lpi.tasks.stream import Task, TaskStream

__all__ = ["Task", "TaskStream", "normal_caption", "relevance"]
