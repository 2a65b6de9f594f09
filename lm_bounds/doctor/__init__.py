"""Whether lm-eval finds the tasks of this package, and the cure where it does not.

lm-eval looks for tasks below its own ``lm_eval/tasks`` only, so the wheel carries a copy of the YAML files
there (docs/adr/0001-tasks-inside-lm-eval.md). Where lm-eval itself is an editable clone, that copy makes a
folder ``site-packages/lm_eval`` without ``__init__.py``: Python takes it for a namespace package, which hides
the clone. Nothing here imports lm_eval or torch: this has to work exactly when they cannot be imported.
"""

from __future__ import annotations

from lm_bounds.doctor.checks import Check, Diagnosis, diagnose
from lm_bounds.doctor.cures import fix
from lm_bounds.doctor.locate import tasks_path

__all__ = ["Check", "Diagnosis", "diagnose", "fix", "tasks_path"]
