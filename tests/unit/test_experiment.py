"""The Tune experiment of a sweep: what of the driver's own node keeps it from its work."""

from __future__ import annotations

import errno
import tempfile

import pytest
from ray import tune

from memexp.cluster.experiment import Listener, fit
from memexp.errors import ClusterError
from memexp.plan.attempts import Attempt


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOENT])
def test_a_disk_without_room_for_tunes_records_is_a_line(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray has it, whichever of its writes comes first ends the experiment with a traceback."""

    def full(tuner: tune.Tuner) -> None:
        raise OSError(number, "whatever the system calls it", "experiment_state.json")

    monkeypatch.setattr(tune.Tuner, "fit", full)
    attempt = Attempt("sweep", "0123456789abcdef", "conditions")
    known = number != errno.ENOENT
    with pytest.raises(ClusterError if known else FileNotFoundError) as raised:
        fit(lambda config: None, lambda config: {"cpu": 1}, attempt, Listener(print, attempt, []), tune.TuneConfig())
    if known:
        place = f"records in {tempfile.gettempdir()} on this node: whatever the system calls it; make room"
        assert place in str(raised.value) and len(str(raised.value).splitlines()) == 1
