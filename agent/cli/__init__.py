"""The command line.

This package is imported before anything else of a command, so it keeps the first signals of `meterhouse run`.
"""

import signal
import sys
from typing import Final

# Python ends at these signals until the agent handles them, and the imports before that take half a second. Blocked
# signals stay pending: SIGTERM then stops the agent in order, and SIGHUP reloads once the agent has started.
EARLY_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)

if sys.argv[1:2] == ["run"]:
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
