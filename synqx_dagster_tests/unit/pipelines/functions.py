"""What users might write as nodes in Python, the wrong things too."""

from __future__ import annotations

import os
import sys
import time
from decimal import Decimal
from typing import Any


def doubled(frame: Any) -> Any:
    """Add a column, in place."""
    frame["twice"] = frame["n"] * 2
    return frame


def scaled(batch: Any, *, factor: int) -> Any:
    """An Arrow batch times a number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pa.RecordBatch.from_arrays([batch["n"], pc.multiply(batch["n"], factor)], names=["n", "scaled"])


def raises(frame: Any) -> Any:
    """Fails, and says a value of a row."""
    raise ValueError(f"no good: {frame['secret'].iloc[0]}")


def lacks_a_column(frame: Any) -> Any:
    """Gives less than was promised."""
    return frame[["n"]]


def is_no_frame(frame: Any) -> Any:
    """Gives something else."""
    return 42


def wrong_type(frame: Any) -> Any:
    """Gives text where numbers were promised."""
    frame["twice"] = "many"
    return frame


def gives_nothing(frame: Any) -> Any:
    """Lacks its return."""
    frame["twice"] = frame["n"] * 2


def gives_twice(frame: Any) -> Any:
    """A column twice."""
    import pandas as pd

    doubled(frame)
    return pd.concat([frame, frame[["n"]]], axis=1)


def leaves(frame: Any) -> Any:
    """Ends the process, as a script would."""
    sys.exit(3)


def hangs(frame: Any) -> Any:
    """Never ends."""
    time.sleep(3600)
    return frame


def dies(frame: Any) -> Any:
    """Takes its process with it."""
    os._exit(3)


def environment(frame: Any) -> Any:
    """One row: which variables of SynqX's there are."""
    import pandas as pd

    return pd.DataFrame({"names": [" ".join(sorted(name for name in os.environ if name.startswith("SYNQX_")))]})


def counted(frame: Any) -> Any:
    """One row: how many there were."""
    import pandas as pd

    return pd.DataFrame({"rows": [len(frame)]})


def halves(frame: Any) -> Any:
    """Floats that a smaller float does not hold."""
    import pandas as pd

    return pd.DataFrame({"x": [0.1] * len(frame)})


def wall_clock(frame: Any) -> Any:
    """Times without a zone."""
    import pandas as pd

    return pd.DataFrame({"x": pd.to_datetime(["2024-03-31 02:30:00"] * len(frame))})


def big(frame: Any) -> Any:
    """Integers that no float holds."""
    import pandas as pd

    return pd.DataFrame({"x": pd.array([2**53 + 1] * len(frame), dtype="int64")})


def prices(frame: Any, *, price: str) -> Any:
    """Decimals."""
    import pandas as pd

    return pd.DataFrame({"x": [None if n == 3 else Decimal(price) for n in frame["n"]]}, dtype=object)
