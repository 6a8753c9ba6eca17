"""Growth on a schedule inside training frameworks, each an optional extra.

* ``lightning.GrowthCallback`` for Lightning (``pip install graftwork[lightning]``),
* ``transformers.GrowthCallback`` for Hugging Face ``Trainer`` (``pip install graftwork[transformers]``),
* ``skorch.GrowthCallback`` for skorch (``pip install graftwork[skorch]``),
* ``keras.GrowthCallback`` for Keras 3 on torch (``pip install graftwork[keras]``),
* `ScheduleRunner`, what these are made of, for a callback of another framework.

Nothing here imports a framework until its own module is imported.
"""

from graftwork.integrations._runner import ScheduleRunner

__all__ = ["ScheduleRunner"]
